"""lambda2 from bounces alone: right to 1e-4 for every kind of head, on every operator, in any batch."""

import numpy as np
import pytest
import torch
from heads import KINDS, drift, heads

from attention_chains.chain import AttentionChain, spectrum
from attention_chains.chain.derived import Lazy, Outgoing, Product, Teleported
from attention_chains.chain.operators import DenseOperator

SIZES = (81, 85, 96, 110)  # above those that go to all eigenvalues at once


class Bounces:
    """A chain that is known only by its bounces."""

    matrix_free = True

    def __init__(self, operator):
        self.inside = operator
        self.n, self.batch_shape = operator.n, operator.batch_shape
        self.dtype, self.device = operator.dtype, operator.device

    def apply(self, state):
        return self.inside.apply(state)

    def apply_transposed(self, state):
        return self.inside.apply_transposed(state)

    def dense(self, dtype=None):
        raise AssertionError("formed a matrix-free chain")

    def select(self, dim, index):
        return Bounces(self.inside.select(dim, index))


def exact(matrix):
    """Second largest modulus of each of (..., n, n), by numpy in float64."""
    wide = matrix.double().numpy()
    wide = wide / wide.sum(-1, keepdims=True)
    return torch.from_numpy(np.sort(np.abs(np.linalg.eigvals(wide)), -1)[..., -2])


def relative_error(value, expected):
    return ((value.double() - expected).abs() / expected).max().item()


@pytest.mark.parametrize("kind", KINDS)
def test_200_heads_of_each_kind_agree_with_numpy(kind):
    for seed, n in enumerate(SIZES):
        matrix = heads(kind, n, seed, count=50)
        value, info = AttentionChain(matrix).lambda2(return_info=True)
        assert info.converged.all()
        assert not info.ill_posed.any()
        assert relative_error(value, exact(matrix)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_197_tokens_agree_with_numpy(kind):
    matrix = heads(kind, 197, seed=9, count=4)
    value, info = AttentionChain(matrix).lambda2(return_info=True)
    assert relative_error(value, exact(matrix)) < 1e-4
    assert (info.passes > 0).all()
    assert (info.passes <= 400).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_an_eigenvalue_is_as_near_as_the_error_says(kind, tol):
    matrix = heads(kind, 120, seed=4, count=8)
    value, info = AttentionChain(matrix).lambda2(tol=tol, return_info=True)
    wide = matrix.double()
    moduli = torch.linalg.eigvals(wide / wide.sum(-1, keepdim=True)).abs()
    assert ((moduli - value.double().unsqueeze(-1)).abs().amin(-1) <= info.error + 2e-7).all()
    assert (info.residual <= info.error * (1 + 1e-12)).all()


@pytest.mark.parametrize("spread", [0.5, 1.0, 4.0])
def test_scores_of_full_rank_whose_eigenvalues_fill_a_disc(spread):
    noise = torch.randn(20, 128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = (spread * noise).softmax(-1).float()
    value, info = AttentionChain(matrix).lambda2(return_info=True)
    assert info.converged.all()
    assert relative_error(value, exact(matrix)) < 1e-4


def test_a_tighter_tolerance_is_met_in_float64():
    matrix = heads("cycle", 90, seed=1, count=3)
    rows = matrix.double() / matrix.double().sum(-1, keepdim=True)
    value, info = spectrum.lambda2_with_info(DenseOperator.normalising(matrix), 1e-9)
    assert info.converged.all()
    assert relative_error(value, exact(rows)) < 1e-9


def test_ordering_the_tokens_otherwise_changes_nothing():
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    for kind in KINDS:
        matrix = heads(kind, 100, seed=2, count=2)
        value = AttentionChain(matrix).lambda2()
        torch.testing.assert_close(AttentionChain(matrix[:, order][:, :, order]).lambda2(), value, rtol=1e-4, atol=0)


def test_a_chain_has_the_same_lambda2_alone_and_in_any_batch():
    matrix = torch.stack([heads(kind, 81, seed=3, count=2) for kind in KINDS])  # (7, 2, n, n)
    together, info = AttentionChain(matrix).lambda2(return_info=True)
    passes = info.passes
    for kind in range(len(KINDS)):
        for head in range(2):
            alone, info = AttentionChain(matrix[kind, head]).lambda2(return_info=True)
            assert abs(alone - together[kind, head]) <= 5e-6 * alone
            assert abs(info.passes - passes[kind, head]) <= 26  # round-off may take it to the next look


def lazy_lambda2(matrix, stay):
    return exact(stay * torch.eye(len(matrix), dtype=torch.float64) + (1 - stay) * matrix.double()).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stay", [0.2, 0.5, 0.8])
def test_a_lazy_chain_alone_is_not_taken_for_periodic(kind, stay):
    """Images lean on what was bounced; the basis must stay orthogonal to the constant vector all the same."""
    for n, seed in ((120, 0), (120, 1), (600, 0)):
        matrix = heads(kind, n, seed)[0]
        chain, known = AttentionChain(matrix).lazy(stay), lazy_lambda2(matrix, stay)
        assert chain.lambda2().item() == pytest.approx(known, rel=2e-5)
        assert chain.spectrum(2)[1].abs().item() == pytest.approx(known, rel=2e-5)


@pytest.mark.parametrize("own", [2, 4, 6])
def test_tokens_that_attend_to_themselves(own):
    noise = torch.randn(4, 197, 197, generator=torch.Generator().manual_seed(0))
    matrix = (noise + own * torch.eye(197)).softmax(-1)
    alone = torch.stack([AttentionChain(head).lambda2() for head in matrix])
    np.testing.assert_allclose(alone, exact(matrix), rtol=2e-5)
    np.testing.assert_allclose(AttentionChain(matrix).lambda2(), alone, rtol=5e-6)


def test_a_lazy_matrix_free_chain():
    q, k = torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(0))
    chain = AttentionChain.from_qk(q, k, storage="fused").lazy()
    known = lazy_lambda2((q.double() @ k.double().mT / 4).softmax(-1), 0.5)
    assert chain.lambda2().item() == pytest.approx(known, rel=5e-5)


def test_teleport_scales_lambda2_by_alpha():
    chain = AttentionChain(heads("cycle", 100, seed=5, count=4))
    torch.testing.assert_close(chain.teleport(0.7).lambda2(), 0.7 * chain.lambda2(), rtol=1e-6, atol=0)
    inside = chain.teleport(0.7).lazy(0)  # where the teleport cannot be taken off
    torch.testing.assert_close(inside.lambda2(), 0.7 * chain.lambda2(), rtol=1e-4, atol=0)


def test_staying_moves_each_eigenvalue_half_way_to_one():
    chain = AttentionChain(heads("shift", 100, seed=5, count=3))
    eigenvalues = torch.linalg.eigvals(chain.matrix().double())
    moved = ((1 + eigenvalues) / 2).abs().sort(descending=True).values[:, 1]
    torch.testing.assert_close(chain.lazy().lambda2().double(), moved, rtol=1e-4, atol=0)


def operators():
    first, then = (DenseOperator.normalising(heads(kind, 100, seed=6, count=3)) for kind in ("clustered", "random"))
    target = torch.softmax(torch.randn(100, generator=torch.Generator().manual_seed(0)), -1)
    return {
        "teleported": Lazy(Teleported(first, 0.9, target), 0.0),
        "outgoing": Outgoing.of(first),
        "outgoing of teleported": Outgoing.of(Teleported(first, 0.9, target)),
        "lazy": Lazy(first, 0.3),
        "product": Product(first, then),
    }


@pytest.mark.parametrize("name", operators())
def test_every_operator_is_only_bounced(name):
    operator = operators()[name]
    value, info = spectrum.lambda2_with_info(Bounces(operator), 1e-4)
    assert info.converged.all()
    assert (info.residual > 0).all()  # from bounces, not from all eigenvalues
    assert relative_error(value, exact(operator.dense(torch.float64))) < 1e-4


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (2, 1, 2)])
def test_a_matrix_free_chain_of_any_batch_is_as_a_dense_one(batch):
    count = int(np.prod(batch))
    dense = DenseOperator.normalising(heads("local", 90, seed=7, count=count).view(*batch, 90, 90))
    value = spectrum.lambda2(Bounces(dense))
    assert value.shape == batch
    torch.testing.assert_close(value, spectrum.lambda2(dense), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [1, 2, 20, 120])
def test_a_matrix_free_permutation_goes_to_all_eigenvalues_without_its_matrix(n):
    cycle = DenseOperator.normalising(torch.eye(n).roll(1, 0))
    assert spectrum.lambda2(Bounces(cycle)).item() == pytest.approx(float(n > 1), abs=1e-10)


def test_a_chain_too_large_for_all_eigenvalues_says_that_it_did_not_converge():
    operator = Bounces(DenseOperator.normalising(torch.eye(1100).roll(1, 0)))
    value, info = spectrum.lambda2_with_info(operator, 1e-4)
    assert not info.converged
    assert not info.ill_posed
    assert 0.9 < value <= 1


LARGE = {
    "permutation": (lambda n: torch.eye(n)[torch.randperm(n, generator=torch.Generator().manual_seed(0))], 1),
    "identity": (torch.eye, 1),
    "two closed classes": (lambda n: torch.block_diag(heads("random", n // 2, 0)[0], heads("sink", n // 2, 1)[0]), 1),
    "period two": (lambda n: torch.ones(n // 2, n // 2).mul(2 / n).kron(torch.eye(2).flip(0)), 1),
    "rank one": (lambda n: heads("sink", n, 0)[0][:1].expand(n, n), 0),
    "all to one token": (lambda n: torch.eye(n)[3].expand(n, n), 0),
    "lazy shift": (lambda n: 0.5 * torch.eye(n) + 0.5 * torch.eye(n)[torch.arange(n).sub(1).clamp(min=0)], 0.5),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_chains_that_are_not_small_are_right_too(name, dtype):
    make, expected = LARGE[name]
    value, info = AttentionChain(make(150).to(dtype)).lambda2(return_info=True)
    assert value.item() == pytest.approx(expected, abs=2e-6)
    assert info.converged


def test_causal_attention_has_its_second_largest_diagonal_entry():
    mask = torch.ones(90, 90).tril().bool()
    scores = torch.randn(3, 90, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    value = AttentionChain(matrix).lambda2()
    torch.testing.assert_close(value, matrix.diagonal(dim1=-2, dim2=-1).sort().values[:, -2], rtol=1e-4, atol=0)


@pytest.mark.parametrize("strength", [5.0, 8.0, 12.0, 20.0, 40.0])
def test_a_previous_token_head_is_right_or_flagged(strength):
    """What numpy makes of the matrix and of its transpose, in float64, tells what can be known at all."""
    matrix = drift(150, strength).softmax(-1)
    value, info = AttentionChain(matrix).lambda2(return_info=True)
    known, other = (np.sort(np.abs(np.linalg.eigvals(each.numpy())))[-2] for each in (matrix, matrix.mT))
    assert info.ill_posed != info.converged
    if abs(known - other) < 1e-5 * known:
        assert info.converged
        assert abs(value.item() - known) < 1e-4 * known
    elif abs(known - other) > 1e-2 * known:
        assert info.ill_posed


@pytest.mark.parametrize("index", [139, 370])
def test_the_third_eigenvalue_is_not_taken_for_the_second(index):
    """A basis of 16 or 18 vectors shows these heads' third eigenvalue to the tolerance, and the second not at all."""
    matrix = heads("clustered", 197, seed=77, count=index + 1)[index]
    chain = matrix.double() / matrix.double().sum(-1, keepdim=True)
    expected = torch.linalg.eigvals(chain).abs().topk(2).values[1].item()
    assert AttentionChain(matrix.float()).lambda2().item() == pytest.approx(expected, rel=1e-4)
