"""TokenRank does not depend on names, batching, type, residual connections or the way it is found."""

import pytest
import torch
from heads import KINDS, heads

from attention_chains.chain import AttentionChain


def l1(a, b):
    return (a.double() - b.double()).abs().sum(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_renaming_tokens_renames_the_rank(kind):
    matrix = heads(kind, 64, seed=1, count=2, dtype=torch.float64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for alpha in (0.99, 1):
        rank = AttentionChain(matrix).teleport(alpha).tokenrank(tol=1e-10)
        renamed = AttentionChain(matrix[:, order][:, :, order]).teleport(alpha).tokenrank(tol=1e-10)
        assert (l1(renamed, rank[:, order]) <= 2e-10).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_lazy_chain_keeps_the_rank(kind):
    chain = AttentionChain(heads(kind, 64, seed=2, count=2, dtype=torch.float64))
    assert (l1(chain.lazy().tokenrank(tol=1e-10), chain.tokenrank(tol=1e-10)) <= 2e-10).all()


@pytest.mark.parametrize(("n", "shape"), [(40, (2, 3)), (40, (1,)), (410, (2, 1)), (410, (1,))])
def test_a_batch_gives_what_a_loop_gives(n, shape):
    kinds = [heads(kind, n, seed=3)[0] for kind in ("clustered", "local", "shift", "peaked", "sink", "cycle")]
    count = torch.Size(shape).numel()
    matrices = torch.stack(kinds[:count])
    for derive in (lambda chain: chain.teleport(0.99), lambda chain: chain.outgoing()):
        rank, info = derive(AttentionChain(matrices.view(*shape, n, n))).tokenrank(return_info=True)
        assert rank.shape == (*shape, n)
        assert info.bound.shape == shape
        alone = torch.stack([derive(AttentionChain(matrix)).tokenrank() for matrix in matrices])
        assert (l1(rank.view(-1, n), alone) <= 2e-6).all()


def test_targets_of_their_own_stay_with_their_chains():
    chain = AttentionChain(heads("local", 410, seed=4, count=2, dtype=torch.float64))
    target = torch.rand(2, 410, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = target / target.sum(-1, keepdim=True)
    rank = chain.teleport(0.9, target).tokenrank(tol=1e-10)
    for index, matrix in enumerate(chain.matrix()):
        step = 0.9 * rank[index] @ matrix + 0.1 * target[index]
        assert l1(step, rank[index]) < 1e-10


def test_outgoing_teleports_before_or_after_the_columns_are_normalised():
    matrix = heads("clustered", 50, seed=5, dtype=torch.float64)[0]
    uniform, ones = 1 / 50, torch.ones(50, dtype=torch.float64)
    teleported = 0.9 * matrix + 0.1 * uniform
    before = (teleported / teleported.sum(0)).mT
    after = 0.9 * (matrix / matrix.sum(0)).mT + 0.1 * uniform
    ranks = []
    for chain, expected in (
        (AttentionChain(matrix).teleport(0.9).outgoing(), before),
        (AttentionChain(matrix).outgoing().teleport(0.9), after),
    ):
        exact = torch.linalg.solve((torch.eye(50) - expected + uniform).mT, uniform * ones)
        ranks.append(chain.tokenrank(tol=1e-11))
        assert l1(ranks[-1], exact) < 1e-10
    assert l1(*ranks) > 1e-3


@pytest.mark.parametrize("alphas", [[0.5, 0.9, 0.99, 0.999], [0.99], [0.9, 1], [1 - 1e-9, 0.5], (1.0,)])
@pytest.mark.parametrize(("n", "shape"), [(3, ()), (50, (2, 2)), (410, (2,))])
def test_several_alphas_at_once_are_one_after_the_other(alphas, n, shape):
    matrices = heads("clustered", n, seed=6, count=torch.Size(shape).numel()).view(*shape, n, n)
    for chain in (AttentionChain(matrices), AttentionChain(matrices).outgoing()):
        ranks, info = chain.tokenranks(alphas, tol=1e-6, return_info=True)
        assert ranks.shape == (len(alphas), *shape, n)
        assert info.converged.shape == (len(alphas), *shape)
        assert info.converged.all()
        for rank, bound, alpha in zip(ranks, info.bound, alphas, strict=True):
            one, found = chain.teleport(alpha).tokenrank(tol=1e-6, return_info=True)
            assert (l1(rank, one) <= bound + found.bound).all()
        assert torch.equal(chain.tokenranks(torch.tensor(alphas, dtype=torch.float64), tol=1e-6), ranks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 70])
def test_half_types_give_the_float32_rank_of_their_normalised_rows(dtype, n):
    half = heads("random", n, seed=7, dtype=dtype)[0]
    rows = half.double() / half.double().sum(-1, keepdim=True)
    for alpha in (0.99, 1):
        rank, info = AttentionChain(half).teleport(alpha).tokenrank(return_info=True)
        assert rank.dtype == torch.float32
        assert l1(rank, AttentionChain(rows).teleport(alpha).tokenrank(tol=1e-10)) <= info.bound <= 1e-5


@pytest.mark.parametrize("alpha", [0.3, 0.99, 1])
def test_one_token_has_all_of_the_rank(alpha):
    rank, info = AttentionChain(torch.ones(3, 1, 1)).teleport(alpha).tokenrank(return_info=True)
    assert torch.equal(rank, torch.ones(3, 1))
    assert info.converged.all()


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.1), (1.0, 1.0), (1e-3, 0.5), (0.0, 0.2)])
@pytest.mark.parametrize("alpha", [0.9, 1])
def test_two_tokens_share_as_they_leave(a, b, alpha):
    matrix = torch.tensor([[1 - a, a], [b, 1 - b]], dtype=torch.float64)
    away, back = alpha * a + (1 - alpha) / 2, alpha * b + (1 - alpha) / 2
    rank = AttentionChain(matrix).teleport(alpha).tokenrank(tol=1e-10)
    assert rank.tolist() == pytest.approx([back / (away + back), away / (away + back)], abs=1e-10)


def test_autocast_changes_nothing():
    chain = AttentionChain(heads("clustered", 50, seed=8))
    plain = chain.teleport(0.99).tokenrank()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(chain.teleport(0.99).tokenrank(), plain)
        assert torch.equal(chain.tokenranks([0.99])[0], plain)
