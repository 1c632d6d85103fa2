"""One file per way to turn a model's attention into a score of every token.

A method is a module with one of two functions, the kinds of method:

`scores(attention, start, ...)`: the attention of a batch (`JointAttention`) and the states it starts from (B, n) in, a
score of every token (B, n) out.

`ranking(attention, seeds, ...)`: the attention of one block of a vision transformer (`PatchAttention`) and one seed of
each image in, a score of every patch in every head (B, H, P) out, higher for more important.

Their keyword arguments are the keys they take from configs/method/. A method is added by one file here and one YAML
there.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from attention_chains.methods.errors import MethodError

Kind = Literal["scores", "ranking"]
Scores = Callable[..., Tensor]
Ranking = Callable[..., Tensor]

__all__ = ["Kind", "MethodError", "Ranking", "Scores", "bind", "names"]


def names(kind: Kind | None = None) -> list[str]:
    """Names of the methods, of all or of one kind: the files of this folder."""
    every = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "errors"))
    return [name for name in every if kind is None or hasattr(_module(name), kind)]


def bind(name: str, settings: Mapping[str, Any], kind: Kind = "scores") -> Scores | Ranking:
    """The method `name` with its settings.

    Parameters
    ----------
    name
        One of `names(kind)`.
    settings
        Keys of configs/method/; those without a value (None) have the method's own default.
    kind
        Whether to score the tokens of a joint attention, or to rank the patches of a vision transformer's block.

    Raises
    ------
    MethodError
        There is no such method of this kind, or it does not take one of the keys.
    """
    if name not in names():
        raise MethodError(f"There is no method '{name}': choose one of {', '.join(names(kind))}.")
    function = getattr(_module(name), kind, None)
    if function is None:
        raise MethodError(f"Method '{name}' gives no {kind}: choose one of {', '.join(names(kind))}.")
    given = {key: value for key, value in settings.items() if value is not None}
    taken = list(inspect.signature(function).parameters)[2:]
    for key in sorted(given.keys() - set(taken)):
        keys = f"its keys are {', '.join(taken)}" if taken else "it has no keys"
        raise MethodError(f"Method '{name}' does not take '{key}': {keys}.")
    return partial(function, **given)


def _module(name: str) -> Any:
    return importlib.import_module(f"attention_chains.methods.{name}")
