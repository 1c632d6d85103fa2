"""Promise: an edit does to the model what an explicit attention mask or output would, and nothing else."""

from dataclasses import replace
from math import inf

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_chains.capture import Call, capture, mask_tokens


def qkv(n=6, heads=3):
    return torch.randn(3, 2, heads, n, 8).unbind()


def edited(attend, edit, *tensors, **kwargs):
    with capture(attend, edit=edit) as tape:
        return attend(*tensors, **kwargs), tape


def hidden(indices, heads, n):
    mask = torch.zeros(2, heads, n, dtype=torch.bool)
    return mask.scatter(-1, torch.as_tensor(indices).expand(2, heads, -1), True)


@pytest.mark.parametrize("tokens", [[1, 4], torch.tensor([1, 4]), torch.tensor([1, 4], dtype=torch.int32)])
def test_masked_tokens_equal_an_explicit_mask(attend, tokens):
    q, k, v = qkv()
    output, tape = edited(attend, mask_tokens(tokens), q, k, v)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden([1, 4], 3, 6).unsqueeze(-2))
    assert torch.equal(output, expected)
    assert (tape[""].matrix()[..., [1, 4]] == 0).all()
    torch.testing.assert_close(tape[""].matrix() @ v, expected)


def test_each_head_and_image_can_hide_its_own_tokens(attend):
    q, k, v = qkv()
    indices = torch.rand(2, 3, 6).argsort(-1)[..., :2]
    output, _ = edited(attend, mask_tokens(indices), q, k, v)
    for image in range(2):
        for head in range(3):
            kept = [j for j in range(6) if j not in indices[image, head].tolist()]
            alone = [tensor[image, head] for tensor in (q, k[..., kept, :], v[..., kept, :])]
            torch.testing.assert_close(output[image, head], F.scaled_dot_product_attention(*alone))


def test_heads_with_nothing_hidden_are_bit_identical(attend):
    q, k, v = qkv(n=40)
    columns = torch.zeros(2, 3, 40, dtype=torch.bool)
    columns[0, 1, 7:20] = True
    output, _ = edited(attend, mask_tokens(columns), q, k, v)
    plain = F.scaled_dot_product_attention(q, k, v)
    untouched = ~columns.any(-1)
    assert torch.equal(output[untouched], plain[untouched])
    assert not torch.equal(output[0, 1], plain[0, 1])


def test_masking_adds_to_the_masks_that_are_there(attend):
    q, k, v = qkv()
    bias = torch.randn(6, 6)
    off = hidden([2], 3, 6).unsqueeze(-2)
    boolean = (bias > -1) | torch.eye(6, dtype=torch.bool)
    triangle = torch.ones(6, 6, dtype=torch.bool).tril()
    cases = [
        ({"attn_mask": bias}, {"attn_mask": bias.expand(2, 3, 6, 6).masked_fill(off, -inf)}),
        ({"attn_mask": boolean}, {"attn_mask": boolean & ~off}),
        ({"is_causal": True}, {"attn_mask": triangle & ~off}),
    ]
    for given, expected in cases:
        output, _ = edited(attend, mask_tokens([2]), q, k, v, **given)
        torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v, **expected))


def test_masking_repeated_keys_masks_every_query_head(attend):
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    output, _ = edited(attend, mask_tokens([0]), q, k, v, enable_gqa=True)
    keep = torch.arange(6) != 0
    torch.testing.assert_close(
        output, F.scaled_dot_product_attention(q, k, v, attn_mask=keep.expand(6, 6), enable_gqa=True)
    )


def test_hiding_nothing_and_everything(attend):
    q, k, v = qkv()
    nothing, _ = edited(attend, mask_tokens([]), q, k, v)
    everything, tape = edited(attend, mask_tokens(range(6)), q, k, v)
    assert torch.equal(nothing, F.scaled_dot_product_attention(q, k, v))
    assert (everything == 0).all()
    assert (tape[""].matrix() == 0).all()


def test_only_the_chosen_layers_are_edited(stack):
    model, x = stack(), torch.randn(2, 5, 8)
    with capture(model) as plain:
        model(x)
    with capture(model, "blocks.1.attn", edit=mask_tokens([0])) as one:
        model(x)
    with capture(model, edit=lambda call: mask_tokens([0])(call) if call.layer == "blocks.1.attn" else call) as tape:
        model(x)
    assert one.layers == ("blocks.1.attn",)
    assert torch.equal(tape["blocks.0.attn"].matrix(), plain["blocks.0.attn"].matrix())
    assert torch.equal(tape["blocks.1.attn"].matrix(), one["blocks.1.attn"].matrix())
    assert not torch.equal(tape["blocks.2.attn"].q, plain["blocks.2.attn"].q)


def test_a_ranking_of_the_current_logits_can_choose_the_tokens(attend):
    q, k, v = qkv()

    def hide_the_most_attended(call):
        return mask_tokens(call.matrix().sum(-2).topk(2).indices)(call)

    output, tape = edited(attend, hide_the_most_attended, q, k, v)
    top = (q @ k.mT / 8**0.5).softmax(-1).sum(-2).topk(2).indices
    torch.testing.assert_close(
        output, F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden(top, 3, 6).unsqueeze(-2))
    )
    assert (tape[""].matrix().gather(-1, top.unsqueeze(-2).expand(2, 3, 6, 2)) == 0).all()


def test_an_edit_may_change_queries_keys_values_and_scale(attend):
    q, k, v = qkv()
    output, _ = edited(attend, lambda call: replace(call, q=2 * call.q, k=-call.k, v=call.v + 1, scale=0.1), q, k, v)
    assert torch.equal(output, F.scaled_dot_product_attention(2 * q, -k, v + 1, scale=0.1))


def test_an_edit_may_give_the_output_in_fp32(small_vit):
    model, images = small_vit
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(images)
        with capture(model, edit=lambda call: call.matrix() @ call.v.float()) as tape:
            replaced = model(images)
    torch.testing.assert_close(replaced, plain, atol=2e-2, rtol=2e-2)
    assert tape["blocks.0.attn"].mask is None  # the call as the model made it


def test_an_output_is_cast_to_what_the_model_goes_on_with(attend):
    q, k, v = (tensor.bfloat16() for tensor in qkv())
    output, _ = edited(attend, lambda call: call.matrix() @ call.v.float(), q, k, v)
    assert output.dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(output, expected.bfloat16(), atol=1e-2, rtol=1e-2)


def test_returning_the_call_as_it_came_is_bit_identical(flux):
    model, run, inputs = flux
    with torch.no_grad():
        plain = run(inputs)
        with capture(model, edit=lambda call: call):
            assert torch.equal(run(inputs), plain)


def test_reduce_sees_the_edited_call(attend):
    with capture(attend, reduce=lambda call: call.matrix().sum(-2), edit=mask_tokens([3])) as tape:
        attend(*qkv())
    assert (tape[""][..., 3] == 0).all()


@torch.no_grad()
def test_multi_head_attention_is_edited(small_vit):
    model, x = nn.MultiheadAttention(12, 3, batch_first=True).eval(), torch.randn(2, 5, 12)
    padding = torch.tensor([[False, False, True, False, False]]).expand(2, -1)
    with capture(model, edit=mask_tokens([2])):
        output, _ = model(x, x, x, need_weights=False)
        with capture(model) as unedited:
            model(x, x, x, need_weights=False)
    expected, _ = model(x, x, x, key_padding_mask=padding)
    torch.testing.assert_close(output, expected)
    assert unedited[""].mask is None


def test_dropout_of_the_model_still_applies(attend):
    q, k, v = qkv()
    torch.manual_seed(1)
    output, _ = edited(attend, mask_tokens([0]), q, k, v, dropout_p=0.5)
    torch.manual_seed(1)
    keep = (torch.arange(6) != 0).expand(2, 3, 1, 6)
    assert torch.equal(output, F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=0.5))


def test_an_outer_capture_sees_the_edits_of_an_inner_one(stack):
    model, x = stack(), torch.randn(1, 4, 8)
    with capture(model) as outer, capture(model, "blocks.0.attn", edit=mask_tokens([1])) as inner:
        model(x)
    assert outer.layers == ("blocks.0.attn", "blocks.1.attn", "blocks.2.attn")
    assert torch.equal(outer["blocks.0.attn"].matrix(), inner["blocks.0.attn"].matrix())


def test_one_token_may_be_named_without_a_list():
    q = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    call = Call("layer", q, q, q, 0.5)
    for token in (3, torch.tensor(3)):
        assert torch.equal(mask_tokens(token)(call).matrix(), mask_tokens([3])(call).matrix())
