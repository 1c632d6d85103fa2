"""Matrix-free chains bounce random states along, at almost no cost: fewer bounces, the same answers."""

import pytest
import torch
from heads import heads

from attention_chains.chain import AttentionChain, certificate, gmres

SLOW = ("clustered", "local", "shift", "cycle")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let it pay for few tokens too."""
    monkeypatch.setattr(gmres, "LARGE", 1 + gmres.TOGETHER)


def both(kind, n, seed, dtype=torch.float32):
    """A head by its logits, which are all in the mask, and the same head stored."""
    matrix = heads(kind, n, seed, dtype=dtype)[0]
    nothing = torch.zeros(n, 1, dtype=dtype)
    free = AttentionChain.from_qk(nothing, nothing, mask=matrix.clamp(min=1e-30).log(), storage="fused")
    return free, AttentionChain(matrix)


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("alpha", [0.99, 0.9999])
def test_the_rank_of_a_slow_chain_takes_fewer_bounces(kind, alpha):
    free, dense = both(kind, 450, seed=1)
    rank, info = free.teleport(alpha).tokenrank(return_info=True)
    alone, info_alone = dense.teleport(alpha).tokenrank(return_info=True)
    assert info.converged
    assert (rank - alone).abs().sum() <= info.bound + info_alone.bound
    assert info.iterations < info_alone.iterations
    if kind in ("local", "shift"):  # whose eigenvalues come close to one in numbers
        assert info.iterations <= 0.6 * info_alone.iterations


@pytest.mark.parametrize("n", [9, 10, 40])
def test_few_tokens(n):
    """Eight states span all that sum to zero, or all but one: round-off may not be taken for more."""
    free, dense = both("random", n, seed=n, dtype=torch.float64)
    for alpha in (0.5, 0.99):
        rank = free.teleport(alpha).tokenrank(tol=1e-10)
        torch.testing.assert_close(rank, dense.teleport(alpha).tokenrank(tol=1e-10), rtol=0, atol=2e-10)


@pytest.mark.parametrize("count", [3, 6, 7, 12])
def test_weights_that_miss_one_by_round_off_make_no_chain_regular(count):
    """In two closed parts, random states would move the limit from one to the other."""
    mask = torch.full((100, 100), -torch.inf, dtype=torch.float64)
    mask[:25, :25] = mask[25:, 25:] = 0
    nothing = torch.zeros(count, 100, 1, dtype=torch.float64)
    noise = torch.randn(count, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chain = AttentionChain.from_qk(nothing, nothing, mask=mask + noise, storage="fused").mix("uniform", dim=0)
    assert not certificate.is_regular(chain._operator)
    assert certificate.is_regular(chain.teleport(1 - 1e-6)._operator)


def test_another_default_device_is_none_of_its_business():
    free, _ = both("clustered", 40, seed=0)
    expected = free.teleport(0.99).tokenrank()
    with torch.device("meta"):
        assert torch.equal(free.teleport(0.99).tokenrank(), expected)


@pytest.mark.parametrize("alpha", [0.9, 0.999])
def test_gradients_through_a_matrix_free_rank_are_those_of_the_stored_chain(alpha):
    scores = heads("clustered", 60, seed=3, dtype=torch.float64)[0].log()
    weight = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nothing = torch.zeros(60, 1, dtype=torch.float64)
    pulled = []
    for chain in (
        lambda mask: AttentionChain.from_qk(nothing, nothing, mask=mask, storage="fused"),
        lambda mask: AttentionChain(mask.softmax(-1)),
    ):
        mask = scores.clone().requires_grad_()
        (chain(mask).teleport(alpha).tokenrank(tol=1e-11) @ weight).backward()
        pulled.append(mask.grad)
    torch.testing.assert_close(*pulled, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_rows_are_orthonormal_and_begin_with_the_right_hand_side(dtype):
    rhs = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=dtype)
    rhs = rhs - rhs.mean(-1, keepdim=True)
    constant = torch.full((40,), 40**-0.5, dtype=dtype)
    space = gmres._KrylovSpace(rhs, torch.ones(1, 3), constant, block=8)
    rows = space.basis.rows[:, :9]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(rows @ rows.mT, torch.eye(9, dtype=dtype).expand(3, 9, 9), rtol=0, atol=10 * eps)
    torch.testing.assert_close(rows[:, 1] * space.norm, rhs, rtol=0, atol=10 * eps)
