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
        Keys of the method; one that the method has no use for may only hold what the method does anyway (`FIXED`).

    Raises
    ------
    MethodError
        For an unknown method, or a setting that would change nothing.
    """
    if name not in names():
        raise MethodError(f"There is no method '{name}': choose one of {', '.join(names())}.")
    module = importlib.import_module(f"attention_chains.methods.{name}")
    taken = set(inspect.signature(module.scores).parameters) - {"attention", "start"}
    fixed = getattr(module, "FIXED", {})
    for key in settings.keys() - taken:
        if settings[key] != fixed.get(key):
            raise MethodError(
                f"method.{key}={settings[key]} would change nothing: {name} has no such choice; leave it out."
            )
    return partial(module.scores, **{key: settings[key] for key in taken & settings.keys()})
