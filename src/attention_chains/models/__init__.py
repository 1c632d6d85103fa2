"""One adapter per model family: load, preprocess, tokenise, run, name the layers.

`FAMILIES` names the module of each, which has `load` and `LAYOUT`, the form of its weights' folder; a family is added
by one file here and one YAML in configs/model/.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from types import ModuleType
from typing import Any

import torch

from attention_chains.models import assets
from attention_chains.models.class_names import class_names
from attention_chains.models.errors import AssetError
from attention_chains.models.layouts import Layout
from attention_chains.models.linear_head import head_digest, missing_head

FAMILIES = ("flux", "sd15", "vit", "clip", "dinov1", "dinov2")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

__all__ = ["FAMILIES", "AssetError", "load", "load_configured", "missing", "weights_digest"]


def load(family: str, **settings: Any) -> Any:
    """Load a model of a family; the settings are those of its module's `load`.

    Raises
    ------
    AssetError
        The family is unknown, or its weights cannot be loaded.
    """
    return _adapter(family).load(**settings)


def load_configured(model: Any, device: torch.device, **settings: Any) -> Any:
    """Load the model of a configuration: its keys that the adapter's `load` takes, and have a value, are handed on.

    Parameters
    ----------
    model
        A resolved `ModelConfig`.
    device
        Where it is to run.
    settings
        What else the adapter takes.

    Raises
    ------
    AssetError
        See `load`.
    """
    taken = inspect.signature(_adapter(model.family).load).parameters
    keys = {name: getattr(model, name) for name in taken if hasattr(model, name)}
    needed = {name for name, each in taken.items() if each.default is each.empty}
    given = {name: value for name, value in keys.items() if value is not None or name in needed}
    given["dtype"] = DTYPES[model.dtype]
    return load(model.family, **given | {"device": device} | settings)


def missing(model: Any, device: torch.device) -> list[str]:
    """Everything that stands between this machine and a model, one sentence each; empty when nothing does.

    Parameters
    ----------
    model
        A resolved `ModelConfig`. Where its `head` is None, no classifier is asked for.
    device
        Where the model is to run.
    """
    found = assets.missing(model.source, model.revision, device, model.memory_gb, model.disk_gb, _layout(model.family))
    head = [] if model.head is None else missing_head(model.head, model.head_sha256)
    return [*_missing_pin(model), *found, *head]


def weights_digest(model: Any) -> str:
    """SHA-256 (hex) of a model's weights and configurations, and of its head and class names where they are given.

    Parameters
    ----------
    model
        A resolved `ModelConfig`.

    Raises
    ------
    AssetError
        They are not there.
    """
    lines = [assets.weights_digest(model.source, model.revision, _layout(model.family))]
    if model.head is not None:
        lines.append(f"head {head_digest(model.head, model.head_sha256)}")
    if model.classes is not None:
        lines += class_names(model.classes)
    return lines[0] if len(lines) == 1 else hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _missing_pin(model: Any) -> list[str]:
    if model.revision is not None or not assets.is_repository(model.source):
        return []
    return [
        f"model={model.name} has no commit of {model.source} to load, and another day's weights may be others: set "
        "model.revision to one from the repository's history."
    ]


def _layout(family: str) -> Layout:
    return _adapter(family).LAYOUT


def _adapter(family: str) -> ModuleType:
    if family not in FAMILIES:
        raise AssetError(f"There is no adapter for the model family '{family}': choose one of {', '.join(FAMILIES)}.")
    return importlib.import_module(f"attention_chains.models.{family}")
