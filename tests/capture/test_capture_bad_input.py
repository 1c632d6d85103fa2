"""Promise: whatever cannot be captured or edited is refused in one sentence that says where and what to do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_chains.capture import Call, CaptureError, Tape, capture, mask_tokens


def refused(model, x=None, **kwargs):
    """The sentence with which capturing one pass is refused."""
    with pytest.raises(CaptureError) as refusal, capture(model, **kwargs):
        if x is not None:
            model(x)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


class Explicit(nn.Module):
    """A layer that writes its softmax out, which no capture can see."""

    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x


def test_a_glob_that_matches_nothing_names_the_nearest_paths(stack):
    sentence = refused(stack(), layers=["blocks.*.attn", "blocks.*.atn"])
    assert sentence.startswith("No layer matches 'blocks.*.atn'; the nearest layer paths are ")
    assert "'blocks.0.attn'" in sentence


def test_an_empty_list_of_layers(stack):
    assert "list of layers to capture is empty" in refused(stack(), layers=[])


def test_an_expected_layer_that_never_ran(stack):
    model = nn.ModuleDict({"left": stack(), "right": stack()})
    with pytest.raises(CaptureError) as refusal, capture(model, "*.attn"):
        model["left"](torch.randn(1, 4, 8))
    assert str(refusal.value).startswith("Layer 'right.blocks.0.attn' made no attention call")
    assert "3 of 6 expected layers made none" in str(refusal.value)


def test_an_expected_layer_that_does_not_attend_points_to_those_that_do(stack):
    sentence = refused(stack(), torch.randn(1, 4, 8), layers="blocks.*.attn.qkv")
    assert "Layer 'blocks.0.attn.qkv' made no attention call" in sentence
    assert "calls came from 'blocks.0.attn'" in sentence


def test_a_model_that_was_not_run(stack):
    assert "made no attention call that can be seen" in refused(stack())


def test_a_softmax_written_out_is_missed_loudly():
    sentence = refused(Explicit(), torch.randn(1, 4, 8))
    assert "torch.nn.functional.scaled_dot_product_attention" in sentence
    model = nn.Sequential(nn.Linear(8, 8), Explicit())
    assert "Layer '1'" in refused(model, torch.randn(1, 4, 8), layers="1")


def test_an_error_in_the_pass_is_not_hidden_by_missing_layers(stack):
    with pytest.raises(ZeroDivisionError), capture(stack(), "blocks.*.attn"):
        raise ZeroDivisionError


def test_a_pipeline_is_not_a_module(stack):
    class Pipeline:
        transformer = stack()

    assert refused(Pipeline()) == "Pipeline is not a torch.nn.Module; capture its part .transformer instead."


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_refused_up_front(stack):
    traced = torch.jit.trace(stack().eval(), torch.randn(1, 4, 8), check_trace=False)
    assert "is TorchScript" in refused(nn.Sequential(traced))


def test_editing_under_gradient_checkpointing_is_refused(small_vit):
    model, images = small_vit
    model.set_grad_checkpointing()
    assert "uses gradient checkpointing" in refused(model, edit=mask_tokens([0]))
    with torch.no_grad(), capture(model) as tape:
        model(images)
    assert len(tape) == 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda call: None, "`edit` returned NoneType for layer 'blocks.0.attn'; return the call"),
        (lambda call: call.v[..., :1, :], "of shape (1, 2, 1, 4) for layer 'blocks.0.attn'; it must be (1, 2, 4, 4)"),
    ],
)
def test_a_wrong_answer_of_edit(stack, answer, sentence):
    assert sentence in refused(stack(), torch.randn(1, 4, 8), edit=answer)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([4], "Token 4 cannot be masked in layer 'blocks.0.attn', which has tokens 0..3."),
        (torch.zeros(3, 2, 1).long(), "Tokens to mask of shape (3, 2, 1) do not broadcast to (1, 2, 1)"),
        (torch.zeros(2, 5).bool(), "Tokens to mask of shape (2, 5) do not broadcast to (1, 2, 4)"),
    ],
)
def test_tokens_that_do_not_fit_the_layer(stack, tokens, sentence):
    assert sentence in refused(stack(), torch.randn(1, 4, 8), edit=mask_tokens(tokens))


@pytest.mark.parametrize(
    ("tokens", "sentence"), [([0, -1], "Token -1 cannot be masked"), ([0.5], "have dtype torch.float32")]
)
def test_tokens_that_fit_no_layer(tokens, sentence):
    with pytest.raises(CaptureError, match=sentence):
        mask_tokens(tokens)


def test_editing_weights_that_multi_head_attention_was_asked_for():
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(1, 4, 8)
    with pytest.raises(CaptureError, match="call it with need_weights=False"), capture(model, edit=mask_tokens([0])):
        model(x, x, x)


def test_a_tape_names_the_nearest_layers(stack):
    model = stack()
    with capture(model) as tape:
        with pytest.raises(CaptureError, match="the tape is empty; run the model inside the capture first"):
            tape["blocks.0.attn"]
        model(torch.randn(1, 4, 8))
    with pytest.raises(CaptureError, match=r"No record of layer 'blocks.3.attn'; the nearest on the tape are 'blocks"):
        tape.calls("blocks.3.attn")
    assert "blocks.3.attn" not in tape


def test_a_layer_of_which_nothing_was_kept():
    tape = Tape()
    tape.keep("layer", None)
    with pytest.raises(CaptureError, match="Nothing was kept of layer 'layer': `reduce` returned None"):
        tape["layer"]


def test_cross_attention_is_no_chain(attend):
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    with capture(attend) as tape:
        attend(q, k, v)
    assert tape[""].matrix().shape == (1, 2, 3, 5)
    with pytest.raises(CaptureError, match="goes from 3 queries to 5 keys"):
        tape[""].chain()


@pytest.mark.parametrize("head", [2, -1])
def test_a_head_that_is_not_there(head):
    q, k, v = torch.randn(3, 1, 2, 4, 8).unbind()
    with pytest.raises(CaptureError, match=rf"Layer 'here' has no head {head}; choose one of 0..1"):
        Call("here", q, k, v, scale=1.0).matrix(head)


def test_a_call_without_heads(attend):
    with pytest.raises(CaptureError, match=r"query of shape \(4, 8\), which has no head dimension"), capture(attend):
        attend(*torch.randn(3, 4, 8).unbind())


def test_arguments_that_the_kernel_refuses_are_still_refused_by_it(attend):
    q, k, v = torch.randn(3, 1, 2, 4, 8).unbind()
    arguments = {"attn_mask": torch.ones(4, 4, dtype=torch.bool), "is_causal": True}
    with pytest.raises(RuntimeError) as plain:
        F.scaled_dot_product_attention(q, k, v, **arguments)
    with pytest.raises(RuntimeError) as captured, capture(attend):
        attend(q, k, v, **arguments)
    assert str(captured.value) == str(plain.value)


def test_a_single_boolean_is_no_list_of_tokens():
    with pytest.raises(CaptureError, match="single boolean; give one for each token"):
        mask_tokens(torch.tensor(True))
