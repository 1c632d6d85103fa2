"""The certified bound holds, for every kind of head and every way to a rank."""

import numpy as np
import pytest
import torch
from heads import KINDS, heads

from attention_chains.chain import AttentionChain, certificate
from attention_chains.chain.operators import DenseOperator


def solved(chain):
    """Float64 oracle: the stationary vectors of the chain's rows, divided by their sums, by LAPACK."""
    matrices = chain._operator.dense(torch.float64).numpy()
    matrices = matrices / matrices.sum(-1, keepdims=True)
    n = matrices.shape[-1]
    systems = (np.eye(n) - matrices + 1 / n).swapaxes(-1, -2)  # x (I - P + 1 1^T / n) = 1^T / n
    return torch.from_numpy(np.linalg.solve(systems, np.full((*matrices.shape[:-2], n, 1), 1 / n))[..., 0])


def error(rank, chain):
    return (rank.double() - solved(chain)).abs().sum(-1)


DERIVED = {
    "none": lambda chain: chain,
    "teleport .99": lambda chain: chain.teleport(0.99),
    "teleport .999": lambda chain: chain.teleport(0.999),
    "teleport, then outgoing": lambda chain: chain.teleport(0.99).outgoing(),
    "outgoing, then teleport": lambda chain: chain.outgoing().teleport(0.99),
    "lazy": lambda chain: chain.teleport(0.99).lazy(),
    "chained": lambda chain: chain.teleport(0.9) @ chain,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_200_heads_is_within_the_bound_and_the_bound_within_the_tolerance(kind):
    chain = AttentionChain(heads(kind, 48, seed=1, count=200))
    for name in ("none", "teleport .99"):
        derived = DERIVED[name](chain)
        rank, info = derived.tokenrank(return_info=True)
        assert (error(rank, derived) <= info.bound).all(), name
        assert (info.bound <= 1e-5).all(), name
        assert info.converged.all(), name


@pytest.mark.parametrize("derive", DERIVED)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_every_derived_chain_is_certified(derive, dtype, tol):
    for kind in KINDS:
        chain = DERIVED[derive](AttentionChain(heads(kind, 60, seed=2, count=3, dtype=dtype)))
        rank, info = chain.tokenrank(tol=tol, return_info=True)
        assert (error(rank, chain) <= info.bound).all(), kind
        assert (info.bound <= tol).all(), kind
        rank = rank.double()
        residual = (chain._operator.apply(rank / rank.sum(-1, keepdim=True)) - rank).abs().sum(-1)
        assert (residual <= info.residual + torch.finfo(dtype).eps).all(), kind


def test_contractions_are_proven_for_columns_of_a_teleported_chain():
    chain = AttentionChain(heads("random", 20, seed=0, count=5, dtype=torch.float64))
    for derived in (
        chain.teleport(0.8).outgoing(),
        chain.teleport(0.8).outgoing().lazy(0.3),
        chain.teleport(0.8).outgoing() @ chain.teleport(0.5),
    ):
        rows = derived.matrix()
        exact = (rows.unsqueeze(-2) - rows.unsqueeze(-3)).abs().sum(-1).flatten(1).amax(-1) / 2  # Dobrushin's
        proven = certificate.contraction(derived._operator)
        assert proven.shape == (5,)
        assert (exact <= proven + 1e-12).all()
        assert (proven < 1).all()


def test_hitting_times_bound_what_a_residual_can_hide():
    chain = AttentionChain(heads("clustered", 30, seed=3, count=4, dtype=torch.float64))
    token = torch.tensor([0, 7, 29, 3])
    matrices, keep = chain.matrix().numpy(), ~torch.nn.functional.one_hot(token, 30).bool().numpy()
    amplification = certificate.by_hitting(chain._operator, token)
    for index, (matrix, others) in enumerate(zip(matrices, keep, strict=True)):
        times = np.linalg.solve(np.eye(29) - matrix[others][:, others], np.ones(29))
        assert 2 * times.max() <= amplification[index] <= 5 * times.max()


@pytest.mark.parametrize("classes", [2, 3])
def test_several_closed_classes_have_no_hitting_times_and_are_doubled(classes):
    blocks = heads("random", 40 // classes, seed=4, count=classes, dtype=torch.float64)
    matrix = torch.block_diag(*blocks)
    chain = AttentionChain(matrix)
    assert certificate.by_hitting(chain._operator, torch.tensor(0)).isinf()
    rank, info = chain.tokenrank(return_info=True)
    expected = torch.cat([solved(AttentionChain(block)) for block in blocks]) / classes
    torch.testing.assert_close(rank, expected, rtol=0, atol=1e-10)
    assert info.bound == 2
    assert info.converged


def test_one_hopeless_chain_in_a_batch_leaves_the_others_certified():
    batch = torch.stack([torch.eye(40, dtype=torch.float64), *heads("local", 40, 5, 2, torch.float64)])
    chain = AttentionChain(batch)
    rank, info = chain.tokenrank(tol=1e-8, return_info=True)
    torch.testing.assert_close(rank[0], torch.full((40,), 1 / 40, dtype=torch.float64))
    assert info.bound[0] == 2
    assert (info.bound[1:] <= 1e-8).all()
    assert info.converged.all()
    assert (error(rank[1:], AttentionChain(batch[1:])) <= info.bound[1:]).all()


@pytest.mark.parametrize("n", [40, 41])
def test_periodic_chains_are_certified_too(n):
    matrix = torch.eye(n, dtype=torch.float64).roll(1, 0)
    matrix[0] = 0
    matrix[0, [n - 1, n - 3]] = 0.5  # two loops through token 0, of lengths that differ by two
    rank, info = AttentionChain(matrix).tokenrank(tol=1e-9, return_info=True)
    values, left = np.linalg.eig(matrix.numpy().T)
    exact = left[:, np.abs(values - 1).argmin()].real
    assert np.abs(rank.numpy() - exact / exact.sum()).sum() <= info.bound
    assert info.bound <= 1e-9


@pytest.mark.parametrize("leak", [1e-6, 1e-9, 1e-14, 1e-100])
def test_leaks_between_large_classes_count_however_small(leak):
    blocks = heads("random", 25, seed=6, count=2, dtype=torch.float64)
    matrix = torch.block_diag(*blocks)
    matrix[:25, 25:] += leak / 25
    matrix[25:, :25] += 3 * leak / 25
    rank, info = AttentionChain(matrix / matrix.sum(-1, keepdim=True)).tokenrank(tol=1e-6, return_info=True)
    assert rank[:25].sum().item() == pytest.approx(0.75, abs=2e-6)
    assert info.converged


class MatrixFree(DenseOperator):
    """An operator whose n x n numbers nobody may ask for."""

    matrix_free = True

    def dense(self, dtype=None):
        raise AssertionError("formed the matrix")


def matrix_free(matrix):
    return AttentionChain._over(MatrixFree.normalising(matrix))


@pytest.mark.parametrize("n", [5, 60])
def test_matrix_free_chains_are_certified_without_their_matrix(n):
    matrix = heads("clustered", n, seed=7)[0]
    for derive in (lambda chain: chain, lambda chain: chain.teleport(0.99), lambda chain: chain.outgoing()):
        dense, free = derive(AttentionChain(matrix)), derive(matrix_free(matrix))
        rank, info = free.tokenrank(return_info=True)
        assert error(rank, dense) <= info.bound <= 1e-5
        assert info.converged


def test_matrix_free_chains_that_cannot_be_certified_say_so():
    blocks = heads("random", 20, seed=8, count=2)
    rank, info = matrix_free(torch.block_diag(*blocks)).tokenrank(return_info=True)
    expected = torch.cat([solved(AttentionChain(block)) for block in blocks]) / 2
    torch.testing.assert_close(rank.double(), expected, rtol=0, atol=1e-5)
    assert info.bound == 2
    assert not info.converged
    assert info.residual < 1e-6


@pytest.mark.parametrize("kind", ["sink", "random", "peaked"])
@pytest.mark.parametrize("n", [7, 64, 451])
def test_a_bounce_in_blocks_is_as_near_as_it_says(kind, n):
    operator = AttentionChain(heads(kind, n, seed=4)[0].float())._operator
    states = torch.rand(3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8
    exact, near = operator.apply(states), operator.apply_in_blocks(states)
    assert near.dtype == torch.float64
    assert ((near - exact).abs() <= operator.off_in_blocks * exact).all()
    assert (near != exact).any(), "nothing was rounded: the bound was not tried"


@pytest.mark.parametrize("tol", [5e-3, 5e-4, 1e-5])
@pytest.mark.parametrize("kind", ["clustered", "cycle", "sink"])
def test_large_chains_are_certified_at_every_tolerance_alone_and_in_a_batch_alike(kind, tol):
    """Loose tolerances are certified by a bounce in blocks, strict ones in float64."""
    matrices = heads(kind, 420, seed=3, count=2).float()
    chain = AttentionChain(matrices).teleport(0.99)
    rank, info = chain.tokenrank(tol=tol, return_info=True)
    assert (error(rank, chain) <= info.bound).all()
    assert (info.bound <= tol).all()
    for index in range(2):
        alone, of_one = (AttentionChain(each).teleport(0.99) for each in (matrices[index], matrices[None, index]))
        assert torch.equal(rank[index], alone.tokenrank(tol=tol))
        assert torch.equal(rank[index], of_one.tokenrank(tol=tol)[0])


def test_a_product_of_many_chains_is_allowed_the_round_off_of_each():
    chain = AttentionChain(heads("random", 20, seed=0)[0])
    product = chain
    for _ in range(7):
        product = product @ chain
    assert certificate.rounding(product._operator) == 8 * certificate.rounding(chain._operator)
