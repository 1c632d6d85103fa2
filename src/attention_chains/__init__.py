"""Attention matrices read as discrete-time Markov chains: bounces, TokenRank, lambda2, for any transformer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_chains import errors
    from attention_chains.capture import HeadMean, MeanAttention, capture, mask_tokens
    from attention_chains.chain import AttentionChain, RunningMix

__version__ = "0.1.0"
__all__ = [
    "AttentionChain",
    "HeadMean",
    "MeanAttention",
    "RunningMix",
    "__version__",
    "capture",
    "errors",
    "mask_tokens",
]

_ROOMS = {
    "AttentionChain": "chain",
    "RunningMix": "chain",
    "capture": "capture",
    "mask_tokens": "capture",
    "HeadMean": "capture",
    "MeanAttention": "capture",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is first asked for."""
    if name == "errors":
        return importlib.import_module("attention_chains.errors")
    if name not in _ROOMS:
        raise AttributeError(f"module 'attention_chains' has no attribute {name!r}")
    return getattr(importlib.import_module(f"attention_chains.{_ROOMS[name]}"), name)
