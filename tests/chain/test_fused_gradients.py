"""Gradients flow through a fused chain to the queries, keys, mask and state, and keep no attention matrix."""

import pytest
import torch
from torch.autograd import gradcheck

from attention_chains.chain import AttentionChain, fused_pieces

OPERATIONS = {
    "bounce": lambda chain, state: chain.step(state),
    "two bounces": lambda chain, state: chain.step(chain.step(state)),
    "transposed": lambda chain, state: chain._operator.apply_transposed(state),
    "outgoing": lambda chain, state: chain.teleport(0.9).outgoing().step(state),
    "mix": lambda chain, state: chain.mix().step(state[0]),
    "drop": lambda chain, state: chain.drop([1]).step(state[..., 1:]),
    "matrix": lambda chain, state: chain.matrix(),
}


@pytest.fixture(autouse=True, params=[10, 2**18], ids=["many pieces", "one piece"])
def pieces(request, monkeypatch):
    monkeypatch.setitem(fused_pieces.ENTRIES, "cpu", request.param)


def leaves(heads=2, n=5, d=3):
    draw = torch.Generator().manual_seed(0)
    shapes = ((heads, n, d), (1, n, d), (n, n), (heads, n))
    return tuple(torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_finite_differences(operation, causal):
    def run(q, k, mask, state):
        return operation(AttentionChain.from_qk(q, k, None, mask, causal, storage="fused"), state)

    assert gradcheck(run, leaves(), fast_mode=True)


def test_gradients_of_gradients():
    def run(q, k, mask, state):
        return AttentionChain.from_qk(q, k, None, mask, storage="fused").step(state)

    assert torch.autograd.gradgradcheck(run, leaves(1, 3, 2), fast_mode=True)


def test_a_state_alone_can_take_a_gradient():
    q, k, _, state = leaves()
    chain = AttentionChain.from_qk(q.detach(), k.detach(), storage="fused")
    (gradient,) = torch.autograd.grad(chain.step(state)[..., 2].sum(), state)
    torch.testing.assert_close(gradient, chain.matrix()[..., 2])


def test_a_chain_gives_gradients_as_often_as_asked():
    q, k, _, state = leaves()
    chain = AttentionChain.from_qk(q, k, storage="fused")
    first, second = (torch.autograd.grad(chain.step(state).square().sum(), q)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_attention_matrix_is_kept_for_the_gradient(monkeypatch):
    n, d = 256, 4
    monkeypatch.setitem(fused_pieces.ENTRIES, "cpu", 16 * n)
    q, k = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: sizes.append(saved.numel()) or saved, lambda x: x):
        AttentionChain.from_qk(q, k, storage="fused").bounce(0, n=2)
    assert sizes and max(sizes) <= n * d
