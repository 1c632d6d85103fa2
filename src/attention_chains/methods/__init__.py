"""One file per way to turn a model's attention into a map, a ranking, a mask or a choice of tokens.

A method is a module with one of these functions, the kinds of method:

`scores(attention, start, ...)`: the attention of a batch (`JointAttention`) and the states it starts from (B, n) in, a
score of every token (B, n) out.

`ranking(attention, seeds, ...)`: the attention of one block of a vision transformer (`PatchAttention`) and one seed of
each image in, a score of every patch in every head (B, H, P) out, higher for more important.

`saliency(chain, size, ...)`: the mean head of a diffusion model's self-attention (`AttentionChain`, batch (B,)) and the
height and width of its tokens in, how much each token matters (B, n) out, of mean 1; or None for no guidance at all,
which is then not asked for again.

`anchors(tensor, side, grid, ...)`: the attention of all layers of a diffusion model, aggregated (side^2, side^2), the
side of its map and the root of the number of anchors in, the tokens that segments grow from (grid^2,) out, in the order
in which they are merged.

`segments(tensor, size, ...)`: the same attention and the height and width of an image in, the number of its segment
for every pixel (height, width) out.

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

Kind = Literal["scores", "ranking", "saliency", "anchors", "segments"]
Scores = Callable[..., Tensor]
Ranking = Callable[..., Tensor]
Saliency = Callable[..., Tensor | None]
Anchors = Callable[..., Tensor]
Segments = Callable[..., Tensor]

__all__ = ["Anchors", "Kind", "MethodError", "Ranking", "Saliency", "Scores", "Segments", "bind", "bind_all", "names"]


def names(kind: Kind | None = None) -> list[str]:
    """Names of the methods, of all or of one kind: the files of this folder."""
    every = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "errors"))
    return [name for name in every if kind is None or hasattr(_module(name), kind)]


def bind(name: str, settings: Mapping[str, Any], kind: Kind = "scores") -> Callable[..., Any]:
    """The method `name` with its settings.

    Parameters
    ----------
    name
        One of `names(kind)`.
    settings
        Keys of configs/method/; those without a value (None) have the method's own default.
    kind
        The function of the method's file, as this module lists them.

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
    parameters = inspect.signature(function).parameters.values()
    taken = [each.name for each in parameters if each.default is not each.empty]
    for key in sorted(given.keys() - set(taken)):
        keys = f"its keys are {', '.join(taken)}" if taken else "it has no keys"
        raise MethodError(f"Method '{name}' does not take '{key}': {keys}.")
    return partial(function, **given)


def bind_all(specs: Mapping[str, Any], kind: Kind) -> dict[str, Callable[..., Any]]:
    """The methods of a run by label; `specs` are its `MethodConfig`s by label, all of whose keys are the methods' own.

    Raises
    ------
    MethodError
        See `bind`.
    """
    settings = {label: dict(vars(spec)) for label, spec in specs.items()}
    return {label: bind(keys.pop("name"), keys, kind) for label, keys in settings.items()}


def _module(name: str) -> Any:
    return importlib.import_module(f"attention_chains.methods.{name}")
