"""Make a model's attention go through scaled_dot_product_attention for a while, whatever it was told to use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from attention_chains.capture.errors import CaptureError
from attention_chains.capture.layers import Layers, module_paths

_DIFFUSERS_BACKENDS = {"native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math"}
_DIFFUSERS_PROCESSORS = {
    "AttnProcessor": "AttnProcessor2_0",
    "SlicedAttnProcessor": "AttnProcessor2_0",
    "XFormersAttnProcessor": "AttnProcessor2_0",
    "AttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "SlicedAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "XFormersAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
}


@contextmanager
def through_sdpa(model: nn.Module, layers: Layers) -> Iterator[None]:
    """Put the wanted layers on scaled_dot_product_attention, run eagerly; undo it all when the context closes.

    Raises
    ------
    CaptureError
        A layer cannot be switched without changing what it computes.
    """
    with ExitStack() as undo:
        _without_fast_path(undo)
        _without_compiled_code(undo)
        for path, module in module_paths(model):
            if hasattr(module, "set_attn_implementation"):
                _switch_transformers(path, module, layers, undo)
            if not layers.wants(path):
                continue
            if getattr(module, "fused_attn", None) is False:  # timm
                _set(undo, module, "fused_attn", True)
            if hasattr(module, "set_processor") and hasattr(module, "processor"):
                _switch_diffusers(path, module, undo)
        yield


def _set(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _without_fast_path(undo: ExitStack) -> None:
    """nn.MultiheadAttention's and nn.TransformerEncoder's fused inference kernels show no attention."""
    undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)


def _without_compiled_code(undo: ExitStack) -> None:
    """Each capture would compile anew, and after the eighth torch would give up compiling for good."""
    if "torch._dynamo" in sys.modules:  # nothing is compiled where it was never imported, and importing it is slow
        undo.enter_context(torch.compiler.set_stance("force_eager"))


def _switch_transformers(path: str, model: nn.Module, layers: Layers, undo: ExitStack) -> None:
    """Switch a PreTrainedModel that has a wanted layer, and the models inside it."""
    wanted = any(layers.wants(f"{path}.{inner}".strip(".")) for inner, _ in module_paths(model))
    configs = {id(module.config): module.config for module in model.modules() if _attends_by_config(module)}
    if not wanted or all(config._attn_implementation == "sdpa" for config in configs.values()):
        return
    for config in configs.values():
        _set(undo, config, "_attn_implementation_internal", config._attn_implementation)
    reason = "the model class does not follow the switch"
    try:
        model.set_attn_implementation("sdpa")
    except (ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
    if any(config._attn_implementation != "sdpa" for config in configs.values()):
        raise CaptureError(
            f"{type(model).__name__} at '{path}' cannot be switched to scaled_dot_product_attention "
            f"({reason.rstrip('.')}); load it with attn_implementation='sdpa', or leave it out of `layers`."
        )


def _attends_by_config(module: nn.Module) -> bool:
    return getattr(getattr(module, "config", None), "_attn_implementation", None) is not None


def _switch_diffusers(path: str, module: nn.Module, undo: ExitStack) -> None:
    processor = module.processor
    if type(processor).__name__ in _DIFFUSERS_PROCESSORS:
        _replace_processor(path, module, undo)
    elif hasattr(processor, "_attention_backend") and _diffusers_backend(processor) not in _DIFFUSERS_BACKENDS:
        from diffusers.models.attention_dispatch import AttentionBackendName

        _set(undo, processor, "_attention_backend", AttentionBackendName.NATIVE)


def _replace_processor(path: str, module: nn.Module, undo: ExitStack) -> None:
    from diffusers.models import attention_processor

    if not module.scale_qk:
        raise CaptureError(
            f"The attention of layer '{path}' does not scale its logits (scale_qk=False), which diffusers' "
            "scaled_dot_product_attention processor cannot do; leave it out of `layers`."
        )
    undo.callback(module.set_processor, module.processor)
    module.set_processor(getattr(attention_processor, _DIFFUSERS_PROCESSORS[type(module.processor).__name__])())


def _diffusers_backend(processor: Any) -> str:
    """Name of the backend the processor would use: its own, else the one set for all of diffusers."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    backend = processor._attention_backend or _AttentionBackendRegistry.get_active_backend()[0]
    return getattr(backend, "value", backend)
