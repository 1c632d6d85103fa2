"""Promise: the captured softmax is the one that scaled_dot_product_attention took."""

from math import inf

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.capture import Call, capture
from attention_chains.chain import AttentionChain

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


class Attend(torch.nn.Module):
    def forward(self, *args, **kwargs):
        return F.scaled_dot_product_attention(*args, **kwargs)


@torch.no_grad()
def reproduced(tape, outputs):
    return max(
        (tape[layer].matrix() @ tape[layer].v - output).abs().max().item()
        for layer, output in zip(tape, outputs, strict=True)
    )


@torch.no_grad()
def test_vit_b_softmax_times_v_is_its_attention_output(vit_b, witness):
    model, images = vit_b
    with witness, capture(model) as tape:
        model(images)
    assert len(tape) == 12
    assert reproduced(tape, witness.outputs) <= 1e-5


@torch.no_grad()
def test_flux_softmax_times_v_is_its_attention_output(flux, witness):
    model, run, inputs = flux
    with witness, capture(model) as tape:
        run(inputs)
    assert len(tape) == 4
    assert reproduced(tape, witness.outputs) <= 1e-5


@st.composite
def calls(draw):
    """Arguments of scaled_dot_product_attention in all their variety."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    batch, groups, repeat = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    n, m, d, e = (draw(st.integers(1, 6)) for _ in range(4))
    heads = groups * repeat
    q = 3 * torch.randn(batch, heads, n, d, generator=generator)
    k = torch.randn(batch, groups, m, d, generator=generator)
    v = torch.randn(batch, groups, m, e, generator=generator)
    kwargs = {"enable_gqa": repeat > 1, "scale": draw(st.sampled_from([None, 0.3]))}
    kind = draw(st.sampled_from(["none", "causal", "bool", "float"]))
    rows = draw(st.sampled_from([(n, m), (batch, 1, n, m), (1, heads, n, m), (batch, heads, n, m), (batch, 1, 1, m)]))
    keep = torch.rand(rows, generator=generator) > draw(st.sampled_from([0.3, 0.9]))  # often a whole row is masked
    if kind == "causal":
        kwargs["is_causal"] = True
    if kind == "bool":
        kwargs["attn_mask"] = keep
    if kind == "float":
        kwargs["attn_mask"] = torch.randn(rows, generator=generator).masked_fill(~keep, -inf)
    return (q, k, v), kwargs


@PROPERTY
@given(calls())
def test_any_call_is_reproduced(arguments):
    tensors, kwargs = arguments
    model = Attend()
    with capture(model) as tape:
        output = model(*tensors, **kwargs)
    call, matrix = tape[""], tape[""].matrix()
    torch.testing.assert_close(matrix @ call.v, output, atol=1e-5, rtol=1e-5)
    total = matrix.sum(-1)
    assert ((total - 1).abs() < 1e-5).logical_or(total == 0).all()
    assert torch.equal(call.logits().softmax(-1).nan_to_num(0), matrix)


@PROPERTY
@given(calls())
def test_one_head_is_a_slice_of_all_and_fits_a_buffer(arguments):
    tensors, kwargs = arguments
    model = Attend()
    with torch.no_grad(), capture(model) as tape:
        model(*tensors, **kwargs)
    call, matrix = tape[""], tape[""].matrix()
    for head in range(call.heads):
        buffer = torch.full_like(matrix[:, head], float("nan"))
        assert call.matrix(head, out=buffer) is buffer
        torch.testing.assert_close(buffer, matrix[:, head], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(call.logits(head), call.logits()[:, head], atol=1e-5, rtol=1e-5)


def test_a_fully_masked_query_has_a_zero_row_and_no_chain(attend):
    q, k, v = torch.randn(3, 1, 2, 4, 8).unbind()
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep[2] = False
    with capture(attend) as tape:
        output = attend(q, k, v, attn_mask=keep)
    assert (tape[""].matrix()[:, :, 2] == 0).all()
    assert (output[:, :, 2] == 0).all()
    with pytest.raises(ValueError, match="row"):
        tape[""].chain()


def test_nan_in_the_model_is_not_hidden(attend):
    q, k, v = torch.randn(3, 1, 2, 4, 8).unbind()
    q[0, 1, 3] = float("nan")
    with capture(attend) as tape:
        attend(q, k, v, attn_mask=torch.ones(4, 4, dtype=torch.bool))
    assert tape[""].matrix()[0, 1, 3].isnan().all()


def test_peaky_bf16_logits_are_taken_in_fp32_under_autocast(attend):
    q, k, v = (
        (20 * torch.randn(1, 2, 16, 64)).bfloat16(),
        torch.randn(1, 2, 16, 64).bfloat16(),
        torch.randn(1, 2, 16, 64),
    )
    exact = (q.double() @ k.double().mT / 8).softmax(-1)
    with torch.autocast("cpu", torch.bfloat16), capture(attend) as tape:
        attend(q, k, v.bfloat16())
        matrix = tape[""].matrix()
    torch.testing.assert_close(matrix.double(), exact, atol=1e-4, rtol=0)


def test_fp64_stays_fp64(attend):
    q, k, v = torch.randn(3, 1, 2, 4, 8, dtype=torch.float64).unbind()
    with capture(attend) as tape:
        output = attend(q, k, v)
    torch.testing.assert_close(tape[""].matrix() @ v, output, atol=1e-13, rtol=0)


def test_the_chain_holds_the_matrix(flux):
    model, run, inputs = flux
    with torch.no_grad(), capture(model, "transformer_blocks.1.attn") as tape:
        run(inputs)
    call: Call = tape["transformer_blocks.1.attn"]
    assert isinstance(call.chain(), AttentionChain)
    torch.testing.assert_close(call.chain().matrix(), call.matrix())
