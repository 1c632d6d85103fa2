"""Promise: watching a model changes nothing about it."""

import pytest
import torch
from torch import nn

from attention_chains.capture import MeanAttention, capture


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def test_flux_output_is_bit_identical(flux):
    model, run, inputs = flux
    plain = run(inputs)
    with capture(model) as tape:
        captured = run(inputs)
    assert torch.equal(captured, plain)
    assert tape.layers == (
        "transformer_blocks.0.attn",
        "transformer_blocks.1.attn",
        "single_transformer_blocks.0.attn",
        "single_transformer_blocks.1.attn",
    )


@torch.no_grad()
def test_schnell_heads_are_captured_and_the_output_is_bit_identical(schnell, witness):
    model, run, inputs = schnell
    plain = run(inputs)
    with witness, capture(model, "*transformer_blocks.*.attn") as tape:
        captured = run(inputs)
    assert torch.equal(captured, plain)
    for layer, output in zip(tape, witness.outputs, strict=True):
        call = tape[layer]
        assert call.q.shape == (1, 24, 32, 128)
        assert call.q.dtype == torch.bfloat16
        assert call.matrix().dtype == torch.float32
        torch.testing.assert_close(call.matrix() @ call.v.float(), output.float(), atol=1e-2, rtol=1e-2)  # bf16 output


@torch.inference_mode()
def test_vit_b_output_is_bit_identical(vit_b):
    model, images = vit_b
    plain = model(images)
    with capture(model, "blocks.*.attn", reduce=MeanAttention()) as tape:
        captured = model(images)
    assert torch.equal(captured, plain)
    assert tape.layers == tuple(f"blocks.{i}.attn" for i in range(12))


@torch.no_grad()
def test_autocast_output_is_bit_identical_and_the_record_is_what_the_kernel_saw(small_vit, witness):
    model, images = small_vit
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(images)
        with witness, capture(model) as tape:
            captured = model(images)
        matrix = tape["blocks.1.attn"].matrix()
    assert torch.equal(captured, plain)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))
    torch.testing.assert_close(
        (matrix @ tape["blocks.1.attn"].v.float()).bfloat16(), witness.outputs[1], atol=4e-3, rtol=1e-2
    )


def test_fp32_queries_are_rounded_as_autocast_rounds_them(attend):
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    with torch.autocast("cpu", torch.bfloat16), capture(attend) as tape:
        output = attend(q, k, v)
    assert output.dtype == tape[""].q.dtype == torch.bfloat16
    torch.testing.assert_close(tape[""].q, q.bfloat16(), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention_is_captured_and_bit_identical(need_weights):
    model = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 12)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain, weights = model(x, x, x, key_padding_mask=padding, need_weights=need_weights)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    with capture(model) as tape:
        captured, _ = model(x, x, x, key_padding_mask=padding, need_weights=need_weights)
    assert torch.equal(captured, plain)
    assert len(tape.calls("")) == 1
    assert (tape[""].matrix()[1, ..., 3:] == 0).all()
    if need_weights:
        torch.testing.assert_close(tape[""].matrix().mean(1), weights)


def test_recording_weights_draws_no_random_numbers():
    model, x = nn.MultiheadAttention(12, 3, dropout=0.5, batch_first=True), torch.randn(2, 5, 12)
    torch.manual_seed(1)
    plain, _ = model(x, x, x)
    torch.manual_seed(1)
    with capture(model):
        captured, _ = model(x, x, x)
    assert torch.equal(captured, plain)


@torch.no_grad()
def test_encoder_fast_path_is_off_inside_and_back_on_after():
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 12)
    with capture(model) as tape:
        captured = model(x)
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert tape.layers == ("layers.0.self_attn", "layers.1.self_attn")
    torch.testing.assert_close(captured, model(x))


def test_gradients_are_those_of_the_unwatched_model(stack):
    model, x = stack(), torch.randn(2, 5, 8)
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with capture(model):
        loss = model(x).square().sum()
    for captured, expected in zip(torch.autograd.grad(loss, list(model.parameters())), plain, strict=True):
        assert torch.equal(captured, expected)


def test_calls_outside_the_model_are_not_recorded(stack):
    model, other = stack(), stack()
    with capture(model) as tape:
        x = other(torch.randn(1, 4, 8))
        model(x)
    assert [len(tape.calls(layer)) for layer in tape.layers] == [1, 1, 1]


def test_every_pass_adds_a_call_and_the_tape_outlives_the_capture(stack):
    model, x = stack(), torch.randn(1, 4, 8)
    with capture(model, "blocks.1.attn") as tape:
        model(x)
        model(2 * x)
    assert len(tape.calls("blocks.1.attn")) == 2
    assert tape["blocks.1.attn"] is tape.calls("blocks.1.attn")[-1]
    model(x)
    assert len(tape.calls("blocks.1.attn")) == 2
    assert hooks_of(model) == 0


def test_dual_and_single_blocks_order_their_tokens_text_then_image(flux):
    _, _, inputs = flux
    from diffusers import FluxTransformer2DModel

    shape = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 8}
    changed = {**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"] + 1}
    for dual, single in ((1, 0), (0, 1)):
        model = FluxTransformer2DModel(
            in_channels=6, num_layers=dual, num_single_layers=single, axes_dims_rope=(2, 2, 4), **shape
        )
        with torch.no_grad(), capture(model, "*attn") as tape:
            model(**inputs), model(**changed)
        before, after = tape.calls(tape.layers[0])
        moved = (before.q != after.q).any(-1)  # (B, H, n)
        assert moved[..., :4].all()
        assert not moved[..., 4:].any()
