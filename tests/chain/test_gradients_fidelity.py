"""Bounces and ranks are differentiable, and their gradients are the difference quotients."""

import pytest
import torch
from heads import drift, heads
from torch.autograd import gradcheck

from attention_chains.chain import AttentionChain, ChainError, products

TOL = 1e-13
ASK = {
    "bounce": lambda chain: chain.bounce(1, 3),
    "outgoing bounce": lambda chain: chain.teleport(0.9).outgoing().bounce("uniform", 2),
    "incoming": lambda chain: chain.teleport(0.9).tokenrank(TOL),
    "without teleport": lambda chain: chain.tokenrank(TOL),
    "outgoing": lambda chain: chain.outgoing().tokenrank(TOL),
    "teleport, then outgoing": lambda chain: chain.teleport(0.9).outgoing().tokenrank(TOL),
    "outgoing, then teleport": lambda chain: chain.outgoing().teleport(0.9).tokenrank(TOL),
    "chained": lambda chain: (chain @ chain.lazy(0.2)).tokenrank(TOL),
    "mixed heads": lambda chain: chain.mix().tokenrank(TOL),
    "without a token": lambda chain: chain.drop(0).tokenrank(TOL),
    "several alphas": lambda chain: chain.tokenranks([0.5, 0.9, 1], TOL),
}


@pytest.fixture
def scores():
    return torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("ask", ASK)
def test_gradients_reach_the_scores(ask, scores):
    assert gradcheck(lambda values: ASK[ask](AttentionChain.from_scores(values)), (scores,))


@pytest.mark.parametrize("ask", ASK)
def test_gradients_reach_the_matrix_whose_rows_count_as_normalised(ask, scores):
    matrix = scores.softmax(-1).detach().requires_grad_()
    assert gradcheck(lambda values: ASK[ask](AttentionChain(values)), (matrix,))


def test_gradients_reach_the_teleport_target(scores):
    chain = AttentionChain.from_scores(scores.detach())
    target = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.3], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda values: chain.teleport(0.8, values).tokenrank(TOL), (target,))


@pytest.mark.parametrize("n", [60, 410])
@pytest.mark.parametrize("kind", ["clustered", "shift", "sink"])
@pytest.mark.parametrize("alpha", [0.99, 1])
def test_gradients_of_larger_chains_are_those_of_a_dense_solve(n, kind, alpha):
    raw = heads(kind, n, seed=1, count=2, dtype=torch.float64)
    weights = torch.randn(2, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, dense = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    (AttentionChain(ours).teleport(alpha).tokenrank(1e-10) * weights).sum().backward()
    rows = alpha * dense / dense.sum(-1, keepdim=True) + (1 - alpha) / n
    uniform = torch.full((2, n), 1 / n, dtype=torch.float64)
    exact = torch.linalg.solve((torch.eye(n) - rows + 1 / n).mT, uniform)
    (exact * weights).sum().backward()
    torch.testing.assert_close(ours.grad, dense.grad, rtol=0, atol=1e-7 * dense.grad.abs().max().item())


def test_float32_gradients_are_near_float64_ones():
    raw = heads("clustered", 60, seed=2, count=2)
    weights = torch.randn(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        matrix = raw.clone().to(dtype).requires_grad_()
        (AttentionChain(matrix).teleport(0.999).tokenrank(1e-6) * weights).sum().backward()
        gradients.append(matrix.grad.double())
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4 * gradients[1].abs().max().item())


def test_gradients_of_chains_that_need_many_krylov_spaces_are_right_too():
    n = 300
    raw = drift(n, 8.0).softmax(-1)
    weights = torch.linspace(-1, 1, n, dtype=torch.float64)
    ours, dense = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    (AttentionChain(ours).teleport(0.99).tokenrank(1e-10) * weights).sum().backward()
    rows = 0.99 * dense / dense.sum(-1, keepdim=True) + 0.01 / n
    exact = torch.linalg.solve((torch.eye(n) - rows + 1 / n).mT, torch.full((n,), 1 / n, dtype=torch.float64))
    (exact * weights).sum().backward()
    torch.testing.assert_close(ours.grad, dense.grad, rtol=0, atol=1e-7 * dense.grad.abs().max().item())


def test_the_graph_holds_one_bounce_and_no_steps():
    matrix = heads("local", 60, seed=3)[0].requires_grad_()
    chain, nodes, edge = AttentionChain(matrix).teleport(0.999), set(), []
    edge.append(chain.tokenrank().grad_fn)
    while edge:
        node = edge.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            edge.extend(following for following, _ in node.next_functions)
    assert len(nodes) < 30


def test_nothing_is_recorded_where_no_gradient_is_asked():
    matrix = heads("random", 40, seed=4)[0]
    assert not AttentionChain(matrix).tokenrank().requires_grad
    chain = AttentionChain(matrix.clone().requires_grad_())
    with torch.no_grad():
        assert not chain.tokenrank().requires_grad
    assert not chain.tokenrank(return_info=True)[1].bound.requires_grad
    assert not chain.mixing_time().requires_grad


def test_second_derivatives_are_refused(scores):
    rank = AttentionChain.from_scores(scores).tokenrank(TOL)
    with pytest.raises(ChainError, match="no second derivatives"):
        torch.autograd.grad(rank[0, 0], scores, create_graph=True)


def test_gradients_pass_matrices_that_are_widened_in_pieces(monkeypatch):
    """One factor takes part in the gradient, the other is only multiplied by, a few rows at a time in float64."""
    scores = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def asked(scores):
        first = AttentionChain.from_scores(scores)
        other = AttentionChain(torch.softmax(scores.detach().float().flip(-1), -1))
        return (first @ other).bounce(3) + (first @ other).outgoing().bounce(1)

    def gradient():
        leaf = scores.clone().requires_grad_()
        asked(leaf).square().sum().backward()
        return leaf.grad

    whole = gradient()
    monkeypatch.setitem(products.CHUNK, "cpu", 2 * 2 * 12)
    torch.testing.assert_close(gradient(), whole)


def test_results_can_be_changed_and_used_where_gradients_are_recorded():
    chain, weight = AttentionChain(heads("clustered", 130, 0, count=2)).teleport(0.9), torch.ones(2, requires_grad=True)
    rank, rank_info = chain.tokenrank(return_info=True)
    value, info = chain.lambda2(return_info=True)
    results = [rank, value, chain.spectrum(3), chain.tokenranks([0.5])]
    for result in (*results, *vars(rank_info).values(), *vars(info).values()):
        assert not result.is_inference()
    (weight * value * (weight[:, None] * rank).square().sum(-1)).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_tangents_go_through_tokenrank():
    scores, direction = torch.randn(2, 60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def rank(x):
        return AttentionChain.from_scores(x).teleport(0.9).tokenrank(tol=1e-10)

    _, tangent = torch.func.jvp(rank, (scores,), (direction,))
    step = 1e-4 * direction
    torch.testing.assert_close(tangent, (rank(scores + step) - rank(scores - step)) / 2e-4, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "asked",
    [lambda chain: chain.teleport(0.9).tokenrank(), lambda chain: chain.lambda2()],
    ids=["tokenrank", "lambda2"],
)
def test_tangents_that_come_to_a_krylov_space_are_told_to_turn_back(asked):
    scores, direction = torch.randn(2, 400, 400, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ChainError, match="reverse mode"):
        torch.func.jvp(lambda x: asked(AttentionChain.from_scores(x)), (scores,), (direction,))
