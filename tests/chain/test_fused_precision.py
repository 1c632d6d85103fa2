"""In what precision a fused chain computes: narrow q and k in float32, float64 states in float64 throughout."""

import pytest
import torch

from attention_chains.chain import AttentionChain


def queries_and_keys(dtype, n=60, d=16):
    draw = torch.Generator().manual_seed(0)
    return (2 * torch.randn(2, n, d, generator=draw)).to(dtype), (2 * torch.randn(2, n, d, generator=draw)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("storage", ["fused", "dense"])
def test_narrow_queries_and_keys_are_computed_in_float32(dtype, storage):
    q, k = queries_and_keys(dtype)
    chain = AttentionChain.from_qk(q, k, storage=storage)
    exact = (q.double() @ k.double().mT / 4).softmax(-1)
    assert chain.dtype == torch.float32
    torch.testing.assert_close(chain.bounce("uniform"), exact.mean(-2).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_a_float64_state_is_bounced_in_float64_through_float32_queries_and_keys(causal):
    q, k = queries_and_keys(torch.float32)
    operator = AttentionChain.from_qk(q, k, causal=causal, storage="fused")._operator
    later = torch.ones(60, 60, dtype=torch.bool).triu(1) & causal
    exact = (q.double() @ k.double().mT / 4).masked_fill(later, -torch.inf).softmax(-1)
    state = torch.rand(2, 60, dtype=torch.float64)
    torch.testing.assert_close(operator.apply(state), torch.einsum("bi,bij->bj", state, exact), rtol=1e-13, atol=0)
    transposed = torch.einsum("bj,bij->bi", state, exact)
    torch.testing.assert_close(operator.apply_transposed(state), transposed, rtol=1e-13, atol=0)


def test_types_of_queries_keys_and_state_are_promoted():
    q, k = queries_and_keys(torch.float32)
    assert AttentionChain.from_qk(q.bfloat16(), k, storage="fused").dtype == torch.float32
    assert AttentionChain.from_qk(q, k.double(), storage="fused").dtype == torch.float64
    assert AttentionChain.from_qk(q.double(), k.double(), storage="fused").step(torch.ones(60)).dtype == torch.float64


def test_autocast_changes_nothing():
    q, k = queries_and_keys(torch.float32)
    plain, dense = (AttentionChain.from_qk(q, k, storage=storage) for storage in ("fused", "dense"))
    with torch.autocast("cpu", torch.bfloat16):
        cast = AttentionChain.from_qk(q, k, storage="fused")
        assert torch.equal(cast.bounce(0, n=3), plain.bounce(0, n=3))
        assert torch.equal(cast.outgoing().bounce(0), plain.outgoing().bounce(0))
        assert torch.equal(cast.matrix(), plain.matrix())
        assert torch.equal(AttentionChain.from_qk(q, k, storage="dense").bounce(0, n=3), dense.bounce(0, n=3))


def test_large_logits_neither_overflow_nor_lose_their_rows():
    q, k = queries_and_keys(torch.float32)
    chain = AttentionChain.from_qk(q, k, scale=30.0, storage="fused")
    torch.testing.assert_close(chain.bounce("uniform").sum(-1), torch.ones(2), rtol=0, atol=1e-3)
    exact = (30 * q.double() @ k.double().mT).softmax(-1).mean(-2)
    torch.testing.assert_close(chain.bounce("uniform"), exact.float(), rtol=0, atol=1e-4)
