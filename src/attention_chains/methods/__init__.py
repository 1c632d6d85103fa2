"""One file per way to turn a model's attention into a score of every token.

A method is a module with one function `scores(attention, start, ...)`: the attention of a batch (`JointAttention`) and
the states it starts from (B, n) in, a score of every token (B, n) out. Its keyword arguments are the keys it takes from
configs/method/. A method is added by one file here and one YAML there.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from attention_chains.methods.errors import MethodError

Scores = Callable[..., Tensor]

__all__ = ["MethodError", "Scores", "bind", "names"]


def names() -> list[str]:
    """Names of the methods: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "errors"))


def bind(name: str, settings: Mapping[str, Any]) -> Scores:
    """The method `name` with its settings.

    Parameters
    ----------
    name
        One of `names()`.
    settings
        Keys of configs/method/; the method is given those it takes.

    Raises
    ------
    MethodError
        There is no such method.
    """
    if name not in names():
        raise MethodError(f"There is no method '{name}': choose one of {', '.join(names())}.")
    scores = importlib.import_module(f"attention_chains.methods.{name}").scores
    taken = inspect.signature(scores).parameters.keys() & settings.keys()
    return partial(scores, **{key: settings[key] for key in taken})
