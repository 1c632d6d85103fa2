"""One adapter per model family: load, preprocess, tokenise, run, name the layers.

`FAMILIES` names the module of each; a family is added by one file here and one YAML in configs/model/.
"""

from __future__ import annotations

import importlib
from typing import Any

from attention_chains.models.errors import AssetError

FAMILIES = ("flux",)

__all__ = ["FAMILIES", "AssetError", "load"]


def load(family: str, **settings: Any) -> Any:
    """Load a model of a family; the settings are those of its module's `load`.

    Raises
    ------
    AssetError
        The family is unknown, or its weights cannot be loaded.
    """
    if family not in FAMILIES:
        raise AssetError(f"There is no adapter for the model family '{family}': choose one of {', '.join(FAMILIES)}.")
    return importlib.import_module(f"attention_chains.models.{family}").load(**settings)
