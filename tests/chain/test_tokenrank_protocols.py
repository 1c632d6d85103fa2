"""The power method is the one that each protocol says, step for step."""

import numpy as np
import pytest
import torch
from heads import heads

from attention_chains.chain import AttentionChain, ChainError


def matrices(kind="clustered", n=30, count=3, alpha=0.99):
    return alpha * heads(kind, n, seed=1, count=count, dtype=torch.float64).numpy() + (1 - alpha) / n


def paper(matrix, tau):
    """Power method of the paper's section 3.1: stop when the squared L2 norm of the change is below tau."""
    state, steps = np.full(len(matrix), 1 / len(matrix)), 0
    while True:
        before, state, steps = state, state @ matrix, steps + 1
        if ((state - before) ** 2).sum() < tau:
            return state, steps, True


def official(matrix, tol, longest=200):
    """The official helper: renormalise, stop when the L1 change is below tol, at most 200 steps."""
    state = np.full(len(matrix), 1 / len(matrix))
    for step in range(1, longest + 1):
        before, state = state, state @ matrix
        state = state / state.sum()
        if np.abs(state - before).sum() < tol:
            return state, step, True
    return state, longest, False


@pytest.mark.parametrize("kind", ["clustered", "cycle", "random", "local"])
@pytest.mark.parametrize(("stop", "loop", "tol"), [("paper", paper, 1e-9), ("official", official, 1e-5)])
def test_a_protocol_is_its_loop(stop, loop, tol, kind):
    raw = matrices(kind)
    rank, info = AttentionChain(torch.from_numpy(raw)).tokenrank(tol, method="power", stop=stop, return_info=True)
    for index, matrix in enumerate(raw):
        expected, steps, met = loop(matrix, tol)
        np.testing.assert_allclose(rank[index].numpy(), expected, rtol=0, atol=1e-13)
        assert info.iterations[index] == steps
        assert info.converged[index] == met


def test_the_official_rule_gives_up_after_200_steps_and_says_so():
    slow = AttentionChain(torch.tensor([[1 - 1e-3, 1e-3], [3e-3, 1 - 3e-3]], dtype=torch.float64))
    rank, info = slow.tokenrank(method="power", stop="official", tol=1e-9, return_info=True)
    assert info.iterations == 200
    assert not info.converged
    torch.testing.assert_close(rank, slow.bounce("uniform", 200))


def test_a_step_is_not_an_error():
    leak = 1e-3
    chain = AttentionChain(torch.tensor([[1 - leak, leak], [3 * leak, 1 - 3 * leak]], dtype=torch.float64))
    chain = chain.teleport(0.999)
    exact = chain.tokenrank(tol=1e-11)
    for stop in ("paper", "official"):
        rank, info = chain.tokenrank(1e-5, method="power", stop=stop, return_info=True)
        error = (rank - exact).abs().sum()
        assert error > 1e-4
        assert error <= info.bound
    certified, info = chain.tokenrank(1e-5, method="power", return_info=True)
    assert (certified - exact).abs().sum() <= info.bound <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_power_steps_and_krylov_steps_meet_the_same_certificate(dtype):
    matrix = heads("local", 50, seed=3, count=4, dtype=dtype)
    for chain in (AttentionChain(matrix).teleport(0.99), AttentionChain(matrix).teleport(0.8).outgoing()):
        power, steps = chain.tokenrank(1e-6, method="power", return_info=True)
        krylov, info = chain.tokenrank(1e-6, return_info=True)
        assert ((power.double() - krylov).abs().sum(-1) <= steps.bound + info.bound).all()
        assert steps.converged.all()
        assert (info.iterations <= steps.iterations).all()


def test_power_steps_that_cannot_certify_are_refused():
    chain = AttentionChain(heads("local", 10, seed=4)[0])
    with pytest.raises(ChainError, match="power method needs teleport to certify 1e-05"):
        chain.tokenrank(method="power")
    with pytest.raises(ChainError, match="more than 20,000"):
        chain.teleport(1 - 1e-6).tokenrank(method="power")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "gmres"}, 'method must be "krylov" or "power"'),
        ({"method": "power", "stop": "never"}, 'stop must be "bound", "paper" or "official"'),
        ({"stop": "paper"}, 'pass method="power" with it'),
        ({"tol": 0}, "tol must be a number above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(fig2, arguments, sentence):
    with pytest.raises(ChainError, match=sentence):
        fig2.tokenrank(**arguments)


@pytest.mark.parametrize("alphas", [[], [0.5, 1.5], [0], "0.9", 0.9, [None]])
def test_alphas_that_are_none_are_named(fig2, alphas):
    with pytest.raises(ChainError, match=r"alphas? must be"):
        fig2.tokenranks(alphas)


def test_a_tolerance_below_round_off_is_refused_at_once():
    chain = AttentionChain(torch.full((5, 5), 0.2, dtype=torch.float64)).teleport(0.99)
    with pytest.raises(ChainError, match="round-off alone keeps the power method from certifying 1e-14"):
        chain.tokenrank(1e-14, method="power")
