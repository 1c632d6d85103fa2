"""lambda2 agrees with float64 eigenvalues, and is right for every degenerate chain of the numerics table."""

import numpy as np
import pytest
import scipy.linalg
import torch
from heads import heads

from attention_chains.chain import AttentionChain


def softmax(scores):
    return torch.softmax(scores.double(), -1)


def scores(n, seed):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(kind, n=48, seed=0):
    noise, token = scores(n, seed), torch.arange(n)
    distance = token[:, None] - token
    shapes = {
        "random": 2 * noise,
        "local": -(distance.double() ** 2) / 8,
        "clustered": noise + 6 * (token[:, None] % 4 == token % 4),
        "sink": noise + 8 * (token == 0),
        "cycle": noise + 7 * (distance % n == n - 1),
        "drift": noise + 7 * (distance == 1),
    }
    return softmax(shapes[kind])


@pytest.mark.parametrize("kind", ["random", "local", "clustered", "sink", "cycle", "drift"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lambda2_agrees_with_scipy(kind, dtype):
    matrix = head(kind)
    expected = np.sort(np.abs(scipy.linalg.eigvals(matrix.numpy())))[-2]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert AttentionChain(matrix.to(dtype)).lambda2().item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("kind", "n", "seed"),
    [("local", 100, 1177), ("local", 100, 1876), ("clustered", 100, 22746), ("clustered", 197, 5094)],
)
def test_a_second_eigenvalue_that_the_start_all_but_misses_is_found(kind, n, seed):
    """The third is next to it, and hides it until the residual is far below what the tolerance asks for."""
    head = heads(kind, n, seed)[0]
    second, third = np.sort(np.abs(scipy.linalg.eigvals(head.double().numpy())))[[-2, -3]]
    assert second - third < 0.005
    assert AttentionChain(head).lambda2().item() == pytest.approx(second, rel=2e-5)


@pytest.mark.parametrize("n", [2, 9, 30, 48, 100, 150, 600])
@pytest.mark.parametrize("stay", [0.0, 0.5, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lazy_walk_to_anywhere_has_one_eigenvalue(n, stay, dtype):
    """One bounce says all: no round-off may be taken for more; and LAPACK gives up on some of these matrices."""
    for target in (torch.full((n,), 1 / n), torch.randn(n, generator=torch.Generator().manual_seed(n)).softmax(-1)):
        chain = AttentionChain((stay * torch.eye(n) + (1 - stay) * target).to(dtype))
        assert chain.lambda2().item() == pytest.approx(stay, abs=1e-5)
        assert chain.lambda2(return_info=True)[0].item() == pytest.approx(stay, abs=1e-5)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_round_off_of_float32_is_told_from_convergence_for_many_causal_heads(strength):
    masked = torch.ones(130, 130).triu(1).bool()
    noise = torch.randn(40, 130, 130, generator=torch.Generator().manual_seed(0))
    chains = AttentionChain.from_scores((strength * noise).masked_fill(masked, -torch.inf))
    expected = chains.matrix().diagonal(dim1=-2, dim2=-1).sort().values[:, -2]
    torch.testing.assert_close(chains.lambda2(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("n", [130, 300, 600])
def test_round_off_of_float32_is_told_from_convergence(n):
    """Eigenvalues of causal attention, its diagonal, have condition numbers of a hundred thousand."""
    chain = AttentionChain(causal(n, seed=n).float())
    expected = pytest.approx(chain.matrix().diagonal().double().sort().values[-2].item(), rel=1e-4)
    assert chain.lambda2().item() == expected
    value, info = chain.lambda2(return_info=True)
    assert value.item() == expected and info.converged and info.passes > 0


def test_a_well_posed_lambda2_is_reported_as_converged():
    value, info = AttentionChain(head("drift")).lambda2(return_info=True)
    assert info.converged
    assert info.error <= 1e-4 * value


def permutation(n, seed=0):
    return torch.eye(n)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]


def causal(n, seed=0):
    return softmax(scores(n, seed).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf))


def lazy_shift(n):
    shift = torch.diag(torch.ones(n - 1), -1)
    shift[0, 0] = 1
    return 0.5 * torch.eye(n) + 0.5 * shift


def closed_classes(*sizes):
    return torch.block_diag(*[softmax(scores(size, size)) for size in sizes])


def period_two(n):
    half = torch.full((n, n), 1 / n)
    return torch.cat([torch.cat([0 * half, half], -1), torch.cat([half, 0 * half], -1)])


def absorbing(n, seed=0):
    matrix = softmax(scores(n, seed))
    matrix[0] = torch.eye(n)[0]
    return matrix


DEGENERATE = {
    "one token": (torch.ones(1, 1), 0),
    "two tokens": (torch.tensor([[0.9, 0.1], [0.4, 0.6]]), 0.5),
    "two tokens, negative": (torch.tensor([[0.1, 0.9], [0.6, 0.4]]), 0.5),
    "identity of two": (torch.eye(2), 1),
    "swap": (torch.eye(2).flip(0), 1),
    "identity": (torch.eye(20), 1),
    "permutation": (permutation(40), 1),
    "cycle": (torch.eye(101).roll(1, 0), 1),
    "period two": (period_two(8), 1),
    "two closed classes": (closed_classes(6, 9), 1),
    "three closed classes": (closed_classes(4, 5, 6), 1),
    "rank one": (softmax(scores(1, 3)[:, :1] * torch.linspace(0, 5, 30)).expand(30, 30), 0),
    "all to one token": (torch.eye(30)[4].expand(30, 30), 0),
    "causal": (causal(30), causal(30).diagonal().sort().values[-2].item()),
    "lazy shift": (lazy_shift(200), 0.5),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_chains_have_the_right_lambda2(name):
    matrix, expected = DEGENERATE[name]
    value, info = AttentionChain(matrix).lambda2(return_info=True)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert info.converged


def test_absorbing_chain_has_the_spectral_radius_of_its_transient_block():
    matrix = absorbing(25)
    radius = np.abs(np.linalg.eigvals(matrix[1:, 1:].numpy())).max()
    assert AttentionChain(matrix).lambda2().item() == pytest.approx(radius, rel=1e-10)


def test_two_tokens_give_trace_minus_one():
    matrices = softmax(4 * torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0)))
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(AttentionChain(matrices).lambda2(), (trace - 1).abs(), rtol=0, atol=1e-12)


def test_peaked_previous_token_head_is_flagged_as_ill_posed():
    n = 150
    token = torch.arange(n)
    previous = (token[:, None] == token + 1) | (token[:, None] + token == 0)  # the first token attends to itself
    matrix = softmax(scores(n, 0) + 45.0 * previous)
    _, info = AttentionChain(matrix).lambda2(return_info=True)
    assert not info.converged


def test_teleport_in_any_number_scales_lambda2_exactly():
    chain = AttentionChain(head("clustered"))
    target = torch.eye(chain.n, dtype=torch.float64)[3]
    teleported = chain.teleport(0.9).teleport(0.5, target)
    expected = np.sort(np.abs(np.linalg.eigvals(teleported.matrix().numpy())))[-2]
    assert teleported.lambda2().item() == pytest.approx(expected, rel=1e-10)
    assert teleported.lambda2().item() == pytest.approx(0.45 * chain.lambda2().item(), rel=1e-14)
