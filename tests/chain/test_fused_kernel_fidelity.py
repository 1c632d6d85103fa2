"""Bounces by scaled_dot_product_attention are those by pieces; on CUDA by the kernel that keeps no attention."""

from dataclasses import replace

import pytest
import torch

from attention_chains.chain import AttentionChain, fused_kernel

HEADS, N, D = 3, 45, 6
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def operators(causal, dtype=torch.float64, key_heads=HEADS, n=N, d=D, device="cpu"):
    """Return an operator that uses the kernel and one that does not."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(heads, n, d, generator=draw, dtype=dtype).to(device) for heads in (HEADS, key_heads))
    bare = replace(AttentionChain.from_qk(2 * q, k, causal=causal, storage="fused")._operator, columns=None)
    ones = torch.ones(HEADS, n, dtype=dtype, device=device)
    return replace(bare, columns=bare.apply(ones)), bare


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [3, 1])
@pytest.mark.parametrize("states", [(), (1,), (5,)])
def test_both_directions_are_those_by_pieces(causal, key_heads, states):
    kernel, pieces = operators(causal, key_heads=key_heads)
    state = torch.randn(*states, HEADS, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kernel.apply(state), pieces.apply(state), rtol=0, atol=1e-12)
    torch.testing.assert_close(kernel.apply_transposed(state), pieces.apply_transposed(state), rtol=0, atol=1e-12)


def test_chains_selected_and_float64_states_need_no_kernel_of_their_own(monkeypatch):
    kernel, pieces = operators(False, torch.float32)
    state = torch.rand(N)
    torch.testing.assert_close(kernel.select(0, 2).apply(state), pieces.select(0, 2).apply(state), rtol=1e-5, atol=0)
    monkeypatch.delattr(fused_kernel, "apply")
    assert torch.equal(kernel.apply(state.double()), pieces.apply(state.double()))


def test_the_kernel_is_used_on_cuda_alone():
    assert not fused_kernel.usable(torch.zeros(2, 5, 8))


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "d"), [(45, 6), (1280, 64), (4608, 128)])
def test_on_cuda_the_kernel_is_within_1e_5(causal, n, d):
    kernel, pieces = operators(causal, torch.float32, n=n, d=d, device="cuda")
    assert fused_kernel.usable(kernel.q)
    state = torch.rand(4, HEADS, n, device="cuda")
    for bounced, exact in (
        (kernel.apply(state), pieces.apply(state.double())),
        (kernel.apply_transposed(state), pieces.apply_transposed(state.double())),
    ):
        error = (bounced - exact).abs().amax(-1) / exact.abs().amax(-1)
        assert error.max() < 1e-5


@cuda
@pytest.mark.gpu
def test_on_cuda_a_bounce_takes_below_two_percent_of_the_matrices_memory():
    q, k = (torch.randn(24, 4608, 128, device="cuda") for _ in range(2))
    chain = AttentionChain.from_qk(q, k, storage="fused")
    assert chain._operator.columns is not None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    chain.bounce("uniform", n=2)
    torch.cuda.synchronize()
    features = 6 * q.nbytes  # q scaled, and both with one more feature, aligned
    assert torch.cuda.max_memory_allocated() - before <= features + 0.02 * 24 * 4608**2 * 4
