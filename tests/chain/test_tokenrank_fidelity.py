"""TokenRank is the stationary vector, and its certificate holds."""

import numpy as np
import pytest
import scipy.linalg
import torch

from attention_chains.chain import AttentionChain


def random_chain(n=40, sharpness=3.0, seed=0, dtype=torch.float64):
    scores = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return AttentionChain(torch.softmax(sharpness * scores, -1).to(dtype))


def stationary(matrix):
    """Float64 oracle: the left eigenvector at eigenvalue one."""
    values, left = scipy.linalg.eig(matrix.double().numpy(), left=True, right=False)
    vector = left[:, np.abs(values - 1).argmin()].real
    return torch.from_numpy(vector / vector.sum())


def l1(a, b):
    return (a.double() - b).abs().sum(-1)


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.99, 0.999, 1])
@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_tokenrank_agrees_with_the_left_eigenvector(alpha, direction):
    chain = random_chain().teleport(alpha)
    chain = chain.outgoing() if direction == "outgoing" else chain
    rank, info = chain.tokenrank(tol=1e-10, return_info=True)
    assert l1(rank, stationary(chain.matrix())) <= info.bound <= 1e-10
    assert info.converged


@pytest.mark.parametrize("alpha", [0.9, 0.99, 0.999, 0.9999, 0.999999])
def test_certificate_holds_where_a_step_tolerance_would_not(alpha):
    clusters = torch.arange(60) % 3
    scores = 12.0 * (clusters[:, None] == clusters) + torch.randn(60, 60, generator=torch.Generator().manual_seed(1))
    chain = AttentionChain.from_scores(scores.double()).teleport(alpha, torch.eye(60, dtype=torch.float64)[0])
    rank, info = chain.tokenrank(tol=1e-6, return_info=True)
    assert l1(rank, stationary(chain.matrix())) <= info.bound <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residual_certifies_the_error_by_one_over_one_minus_alpha(dtype):
    chain = random_chain(dtype=dtype).teleport(0.9)
    rank, info = chain.tokenrank(tol=1e-3, return_info=True)
    rounding = torch.finfo(dtype).eps
    matrix = chain.matrix().double()
    exact = stationary(matrix / matrix.sum(-1, keepdim=True))
    assert l1(rank, exact) <= info.residual / (1 - 0.9) + rounding <= info.bound + rounding
    assert info.bound <= 1e-3


def test_looser_tolerance_takes_fewer_iterations():
    def iterations(tol, chain, **how):
        return chain.teleport(0.99).tokenrank(tol=tol, return_info=True, **how)[1].iterations

    for chain, how in ((random_chain(), {"method": "power"}), (random_chain(n=400), {})):
        assert iterations(1e-2, chain, **how) < iterations(1e-9, chain, **how)


def test_few_hundred_tokens_are_solved_without_iterations():
    _, info = random_chain().teleport(0.99).tokenrank(tol=1e-9, return_info=True)
    assert info.iterations == 0 and info.bound <= 1e-9


def test_a_tolerance_below_the_dtypes_rounding_is_reported_as_missed():
    rank, info = random_chain(dtype=torch.float32).teleport(0.9).tokenrank(tol=1e-9, return_info=True)
    assert not info.converged
    assert 1e-9 < info.bound < 1e-7
    assert rank.sum().item() == pytest.approx(1, abs=1e-6)


def test_info_has_one_entry_for_each_chain(heads):
    for chain in (heads.teleport(0.99), heads):
        _, info = chain.tokenrank(return_info=True)
        for field in (info.iterations, info.residual, info.bound, info.converged):
            assert field.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "matrix", "expected"),
    [
        ("one token", [[1.0]], [1.0]),
        ("identity", torch.eye(4).tolist(), [0.25] * 4),
        ("permutation", torch.eye(5).roll(1, 0).tolist(), [0.2] * 5),
        ("all to one", [[0.0, 1.0, 0.0]] * 3, [0.0, 1.0, 0.0]),
        ("causal", [[1.0, 0.0], [0.5, 0.5]], [1.0, 0.0]),
        ("period two", [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [1.0, 0, 0, 0], [1.0, 0, 0, 0]], [0.5, 0, 0.25, 0.25]),
    ],
)
def test_without_teleport_degenerate_chains_have_their_cesaro_limit(name, matrix, expected):
    rank, info = AttentionChain(torch.tensor(matrix)).tokenrank(return_info=True)
    torch.testing.assert_close(rank, torch.tensor(expected), rtol=0, atol=1e-5)
    assert info.converged


# Two closed classes, the second of period 2, and a transient token that leaves for them with odds 2 : 3.
MIXED = [
    [0.50, 0.50, 0, 0, 0],
    [0.25, 0.75, 0, 0, 0],
    [0, 0, 0, 1, 0],
    [0, 0, 1, 0, 0],
    [0.2, 0, 0.3, 0, 0.5],
]


def test_without_teleport_closed_classes_share_the_mass_that_reaches_them():
    rank, info = AttentionChain(torch.tensor(MIXED, dtype=torch.float64)).tokenrank(return_info=True)
    expected = torch.tensor([0.48 / 3, 0.96 / 3, 0.26, 0.26, 0], dtype=torch.float64)
    torch.testing.assert_close(rank, expected, rtol=0, atol=1e-10)
    assert info.converged
    assert info.bound == 2  # nothing can be certified


def test_teleported_tokenrank_goes_to_the_cesaro_limit():
    chain = AttentionChain(torch.tensor(MIXED, dtype=torch.float64))
    assert l1(chain.teleport(1 - 1e-7).tokenrank(tol=1e-9), chain.tokenrank()) < 1e-5


@pytest.mark.parametrize("leak", [1e-7, 1e-14, 1e-30, 1e-200])
def test_without_teleport_any_leak_between_classes_counts_and_is_certified(leak):
    matrix = torch.tensor([[1 - leak, leak], [3 * leak, 1 - 3 * leak]], dtype=torch.float64)
    rank, info = AttentionChain(matrix).tokenrank(tol=1e-9, return_info=True)
    assert l1(rank, torch.tensor([0.75, 0.25])) <= info.bound + 1e-12
    assert info.bound <= 1e-9


def test_a_token_that_no_one_looks_at_bounces_uniformly_when_outgoing():
    matrix = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.2, 0.8], [0.0, 0.6, 0.4]], dtype=torch.float64)
    outgoing = AttentionChain(matrix).outgoing()
    torch.testing.assert_close(outgoing.bounce(0), torch.full((3,), 1 / 3, dtype=torch.float64))
    limit = AttentionChain(matrix).teleport(1 - 1e-9).outgoing()
    torch.testing.assert_close(outgoing.matrix(), limit.matrix(), rtol=0, atol=1e-7)
    torch.testing.assert_close(outgoing.tokenrank(), limit.tokenrank(), rtol=0, atol=1e-5)


def test_columns_too_small_to_divide_by_count_as_zero():
    matrix = torch.tensor([[1e-40, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(AttentionChain(matrix).outgoing().matrix(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
