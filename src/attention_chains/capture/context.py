"""`capture`: record or edit the attention of any model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from attention_chains.capture.errors import CaptureError
from attention_chains.capture.layers import Layers, module_paths
from attention_chains.capture.running import running_modules
from attention_chains.capture.sdpa import through_sdpa
from attention_chains.capture.tap import Edit, Reduce, Tap
from attention_chains.capture.tape import Tape


@contextmanager
def capture(
    model: nn.Module,
    layers: str | Iterable[str] | None = None,
    reduce: Reduce | None = None,
    edit: Edit | None = None,
) -> Iterator[Tape]:
    """Record, and if asked edit, every attention call that the model makes inside the context.

    Watching changes nothing: the output is bit for bit that of the same model, uncompiled, on
    scaled_dot_product_attention, to which it is switched for the while. Only the model's own modules are watched, in
    the thread that opened the context. An outer capture sees the calls as an inner one edited them.

    Parameters
    ----------
    model : nn.Module
        A timm, transformers, open_clip or diffusers model, or any that uses
        torch.nn.functional.scaled_dot_product_attention or nn.MultiheadAttention. Of a pipeline, the part that attends.
    layers : str or iterable of str, optional
        Globs over the paths of the modules that call attention, such as ``"transformer_blocks.*.attn"``. ``*`` also
        matches dots, and a module brings all below it. Every module chosen must make a call. None: whatever is called.
    reduce : callable, optional
        Takes each recorded `Call` (after `edit`) during the forward pass. The tape keeps its answer instead of the
        call, and nothing where that is None. Without it the tape holds q, k and v of every call.
    edit : callable, optional
        Takes each wanted `Call`; returns it as it came (nothing changes), an edited one (`dataclasses.replace`,
        `mask_tokens`), or the attention's output (B, H, n, e), which is cast to the dtype of v.

    Yields
    ------
    Tape
        The records; still readable when the context is closed.

    Raises
    ------
    CaptureError
        On entering: not a module that can be watched, a glob that matches nothing, or a layer that cannot be switched.
        During the pass: a wrong answer of `edit`. On leaving without another error: an expected layer made no call.
    """
    _check(model, edit)
    chosen = Layers(model, layers)
    with through_sdpa(model, chosen), running_modules(model) as running, Tap(running, chosen, reduce, edit) as tap:
        yield tap.tape
    chosen.check(tap.seen)


def _check(model: Any, edit: Edit | None) -> None:
    if not isinstance(model, nn.Module):
        parts = [name for name in ("transformer", "unet", "vision_model", "model") if hasattr(model, name)]
        advice = f"its part .{parts[0]}" if parts else "the module that attends"
        raise CaptureError(f"{type(model).__name__} is not a torch.nn.Module; capture {advice} instead.")
    for path, module in module_paths(model):
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"Module '{path}' is TorchScript, whose attention calls cannot be seen; capture the eager model."
            )
        if edit is not None and (
            getattr(module, "gradient_checkpointing", False) or getattr(module, "grad_checkpointing", False)
        ):
            raise CaptureError(
                f"Module '{path}' uses gradient checkpointing, whose recomputation would not be edited and give wrong "
                "gradients; switch it off before editing."
            )
