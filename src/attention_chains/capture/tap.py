"""The one mechanism: a function mode that meets every attention call on its way to the kernel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attention_chains.capture.call import Call, read_call
from attention_chains.capture.errors import CaptureError
from attention_chains.capture.layers import Layers
from attention_chains.capture.running import RunningModules
from attention_chains.capture.tape import Tape

Reduce = Callable[[Call], Any]
Edit = Callable[[Call], Call | Tensor]

_SDPA = F.scaled_dot_product_attention
_MULTI_HEAD = F.multi_head_attention_forward
_MULTI_HEAD_SIGNATURE = inspect.signature(_MULTI_HEAD)


class Tap(TorchFunctionMode):
    """Records and edits the attention calls of the running model while it is entered.

    Parameters
    ----------
    running : RunningModules
        Says which layer a call belongs to.
    layers : Layers
        Says which layers are wanted.
    reduce : callable, optional
        Given each recorded call; its answer goes on the tape. None: the call itself.
    edit : callable, optional
        Given each wanted call; its answer, a call or the attention's output, goes on into the model.
    """

    def __init__(self, running: RunningModules, layers: Layers, reduce: Reduce | None, edit: Edit | None):
        super().__init__()
        self.tape = Tape()
        self.seen: dict[str, None] = {}
        self._running, self._layers, self._reduce, self._edit = running, layers, reduce, edit

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Meet one torch call; everything but attention goes straight through."""
        kwargs = kwargs or {}
        if func is _SDPA:
            return self._attend(*args, **kwargs)
        if func is _MULTI_HEAD:
            return self._attend_multi_head(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """scaled_dot_product_attention, recorded and edited."""
        original = partial(
            _SDPA, query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        layer = self._wanted_layer()
        if layer is None:
            return original()
        call = read_call(layer, query, key, value, attn_mask, is_causal, scale, enable_gqa)
        answer = call if self._edit is None else self._edit(call)
        used = answer if isinstance(answer, Call) else call
        self.tape.keep(layer, used if self._reduce is None else self._reduce(used))
        if answer is call:
            return original()
        if isinstance(answer, Call):
            return _SDPA(answer.q, answer.k, answer.v, answer.mask, dropout_p, scale=answer.scale)
        return _checked_output(answer, call)

    def _attend_multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """F.multi_head_attention_forward, its inner attention recorded and edited.

        Asked for its weights it does not use scaled_dot_product_attention: then it runs once more, for the record.
        """
        arguments = _MULTI_HEAD_SIGNATURE.bind(*args, **kwargs).arguments
        if not arguments.get("need_weights", True):
            return _multi_head_calling(self._attend)(**arguments)
        layer = self._wanted_layer()
        if layer is None:
            return _MULTI_HEAD(**arguments)
        if self._edit is not None:
            raise CaptureError(
                f"Layer '{layer}' asks nn.MultiheadAttention for its weights, so its attention cannot be edited; call "
                "it with need_weights=False, or leave it out of `layers`."
            )
        _multi_head_calling(self._attend)(**{**arguments, "need_weights": False, "training": False})
        return _MULTI_HEAD(**arguments)

    def _wanted_layer(self) -> str | None:
        layer = self._running.innermost
        if layer is None:
            return None
        self.seen[layer] = None
        return layer if self._layers.wants(layer) else None


def _multi_head_calling(attend: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """F.multi_head_attention_forward with its inner scaled_dot_product_attention replaced by `attend`.

    A mode is switched off inside the function it meets, so it would miss the inner call; and while it is on, the
    function does nothing but hand itself back to the mode. It is made for the call: kept, it would be a cycle that
    holds the tape, and what is on it, until Python looks for cycles, which a full GPU does not make it do.
    """
    scope = {**vars(F), "scaled_dot_product_attention": attend, "has_torch_function": lambda _: False}
    return FunctionType(_MULTI_HEAD.__code__, scope, _MULTI_HEAD.__name__, _MULTI_HEAD.__defaults__)


def _checked_output(output: Any, call: Call) -> Tensor:
    shape = (*call.q.shape[:-1], call.v.shape[-1])
    if not isinstance(output, Tensor):
        raise CaptureError(
            f"`edit` returned {type(output).__name__} for layer '{call.layer}'; return the call (as it came, where "
            f"there is nothing to edit), an edited call, or an output tensor of shape {shape}."
        )
    if output.shape != shape:
        raise CaptureError(
            f"`edit` returned an output of shape {tuple(output.shape)} for layer '{call.layer}'; it must be {shape}."
        )
    return output.to(call.v.dtype)
