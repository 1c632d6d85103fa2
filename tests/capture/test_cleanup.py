"""Promise: however a capture ends, the model is left as it was found."""

import threading

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from attention_chains.capture import CaptureError, capture, mask_tokens


def traces(model):
    """Everything a capture could leave behind."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    flags = [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")]
    return hooks, flags, torch.backends.mha.get_fastpath_enabled(), len(_get_current_function_mode_stack())


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("where", ["reduce", "edit"])
@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_error_in_a_callback_reaches_the_caller_and_leaves_nothing(small_vit, where, error):
    model, images = small_vit
    model.blocks[1].attn.fused_attn = False
    before = traces(model)

    def fail(call):
        raise error(call.layer)

    with pytest.raises(error, match=r"blocks\.0\.attn"), capture(model, **{where: fail}):
        model(images)
    assert traces(model) == before


def test_a_refused_capture_leaves_nothing(small_vit):
    model, _ = small_vit
    model.blocks[1].attn.fused_attn = False
    before = traces(model)
    for refused in ({"layers": "nothing"}, {"layers": "blocks.0.attn"}):
        with pytest.raises(CaptureError), capture(model, **refused):
            pass
        assert traces(model) == before


def test_a_pass_that_failed_halfway_does_not_mislabel_the_next(stack):
    model, x = stack(), torch.randn(1, 4, 8)
    failing = model.blocks[1]["attn"].qkv.register_forward_hook(lambda *_: (_ for _ in ()).throw(Interrupted))
    with capture(model) as tape:
        with pytest.raises(Interrupted):
            model(x)
        failing.remove()
        model(x)
    assert tape.layers == ("blocks.0.attn", "blocks.1.attn", "blocks.2.attn")
    assert len(tape.calls("blocks.0.attn")) == 2


def test_nested_captures_of_one_model_both_record_and_both_clean_up(small_vit):
    model, images = small_vit
    model.blocks[0].attn.fused_attn = False
    before = traces(model)
    with torch.no_grad(), capture(model) as outer:
        model(images)
        with capture(model, "blocks.1.attn", reduce=lambda call: call.heads) as inner:
            model(images)
        model(images)
    assert [len(outer.calls(layer)) for layer in outer] == [3, 3, 3]
    assert inner.calls("blocks.1.attn") == [3]
    assert traces(model) == before


def test_a_callback_may_run_a_model_and_capture_it(stack):
    model, inner, x = stack(depth=1), stack(depth=1), torch.randn(1, 4, 8)

    def look_elsewhere(call):
        with capture(inner) as tape:
            inner(x)
        return tape["blocks.0.attn"].matrix()

    with capture(model, reduce=look_elsewhere) as tape:
        model(x)
    with capture(inner) as expected:
        inner(x)
    assert torch.equal(tape["blocks.0.attn"], expected["blocks.0.attn"].matrix())


def test_another_thread_neither_records_nor_disturbs(stack):
    model, other, x = stack(), stack(), torch.randn(1, 4, 8)
    inside, go_on = threading.Event(), threading.Event()

    def pause(*_):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(10)

    model.blocks[1]["attn"].qkv.register_forward_pre_hook(pause)
    with capture(model) as tape:
        thread = threading.Thread(target=model, args=(x,))
        thread.start()
        assert inside.wait(10)
        other(x)  # while the thread is inside the model, which is not to say that this one is
        assert len(tape) == 0
        model(x)
        go_on.set()
        thread.join()
    assert [len(tape.calls(layer)) for layer in tape] == [1, 1, 1]


def test_a_module_that_gave_up_on_an_inner_one_does_not_mislabel_what_follows():
    class GivesUp(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)
            self.inner.register_forward_hook(lambda *_: (_ for _ in ()).throw(Interrupted))

        def forward(self, x):
            with pytest.raises(Interrupted):
                self.inner(x)
            return x

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = GivesUp()

        def forward(self, x):
            x = self.first(x)
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    with capture(model := Root()) as tape:
        model(torch.randn(1, 4, 8))
    assert tape.layers == ("",)


def test_a_module_used_at_two_places_records_both_calls(stack):
    shared = stack(depth=1).blocks[0]["attn"]
    model = nn.Sequential(shared, shared)
    with capture(model, "0") as tape:
        model(torch.randn(1, 4, 8))
    assert len(tape.calls("0")) == 2


def test_the_package_itself_is_callable(stack):
    import attention_chains.capture as package

    model = stack()
    with package(model, "blocks.0.attn", edit=mask_tokens([0])) as tape:
        model(torch.randn(1, 4, 8))
    assert tape.layers == ("blocks.0.attn",)
