"""Every typed error of the package, each defined in its own room. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_chains.capture.errors import CaptureError
    from attention_chains.chain.errors import ChainError
    from attention_chains.config.errors import ConfigError
    from attention_chains.data.errors import DataError
    from attention_chains.methods.errors import MethodError
    from attention_chains.metrics.errors import MetricError
    from attention_chains.models.errors import AssetError
    from attention_chains.records.errors import RecordError

__all__ = [
    "AssetError",
    "CaptureError",
    "ChainError",
    "ConfigError",
    "DataError",
    "MethodError",
    "MetricError",
    "RecordError",
]

_ROOMS = {
    "AssetError": "models",
    "CaptureError": "capture",
    "ChainError": "chain",
    "ConfigError": "config",
    "DataError": "data",
    "MethodError": "methods",
    "MetricError": "metrics",
    "RecordError": "records",
}


def __getattr__(name: str) -> Any:
    """Import the room of an error when the error is first named."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'attention_chains.errors' has no attribute {name!r}")
    return getattr(importlib.import_module(f"attention_chains.{_ROOMS[name]}.errors"), name)
