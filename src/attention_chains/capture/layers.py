"""Layer names: module paths, and the globs that choose among them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from attention_chains.capture.errors import CaptureError

_COMPILED = "_orig_mod"  # the name torch.compile gives to the module it wraps


def module_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of the model with its path; a compiled module has the path of what it wraps.

    Yields
    ------
    tuple of str and nn.Module
        The path ('' for the model itself) and the module.
    """
    for path, module in model.named_modules():
        yield ".".join(part for part in path.split(".") if part != _COMPILED), module


def nearest(name: str, names: Collection[str]) -> str:
    """Up to three names like `name`, quoted, for an error message."""
    close = get_close_matches(name, names, n=3, cutoff=0.4) or list(names)[:3]
    return ", ".join(f"'{candidate}'" for candidate in close)


class Layers:
    """The layers a capture records, and those of them that must leave a call.

    Parameters
    ----------
    model : nn.Module
        The model whose module paths the globs run over.
    globs : str, iterable of str, or None
        ``*`` also matches dots. A glob chooses a module and all below it. None: the whole model, as one layer.

    Raises
    ------
    CaptureError
        A glob matches no module path.
    """

    def __init__(self, model: nn.Module, globs: str | Iterable[str] | None):
        paths = list(dict.fromkeys(path for path, _ in module_paths(model)))
        chosen = {""} if globs is None else {path for glob in _listed(globs) for path in _matches(glob, paths)}
        self._roots = {path for path in paths if path in chosen and chosen.isdisjoint(_parents(path))}
        self.expected = [path for path in paths if path in self._roots]

    def wants(self, path: str) -> bool:
        """Whether calls made by the module at `path` are recorded."""
        return path in self._roots or not self._roots.isdisjoint(_parents(path))

    def check(self, seen: Collection[str]) -> None:
        """Refuse a capture that missed a layer.

        Parameters
        ----------
        seen : collection of str
            Paths of the modules that made an attention call.

        Raises
        ------
        CaptureError
            An expected layer made none.
        """
        reached = {*seen, *(parent for path in seen for parent in _parents(path))}
        missing = [path for path in self.expected if path not in reached]
        if missing:
            raise CaptureError(_missed(missing, len(self.expected), list(seen)))


def _listed(globs: str | Iterable[str]) -> list[str]:
    listed = [globs] if isinstance(globs, str) else list(globs)
    if not listed:
        raise CaptureError("The list of layers to capture is empty; give at least one glob, or None for every layer.")
    return listed


def _matches(glob: str, paths: list[str]) -> list[str]:
    matched = [path for path in paths if fnmatchcase(path, glob)]
    if not matched:
        raise CaptureError(
            f"No layer matches '{glob}'; the nearest layer paths are {nearest(glob, paths[1:] or paths)}."
        )
    return matched


def _parents(path: str) -> Iterator[str]:
    """Paths of the modules around this one, the nearest first, the model itself ('') last."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _missed(missing: list[str], expected: int, seen: list[str]) -> str:
    elsewhere = f"calls came from {nearest(missing[0], seen)}" if seen else "no layer of the model made one"
    if missing == [""]:
        return (
            "The model made no attention call that can be seen while it was captured; run it inside the context, and "
            "make it use torch.nn.functional.scaled_dot_product_attention, looked up when it is called."
        )
    return (
        f"Layer '{missing[0]}' made no attention call that can be seen ({len(missing)} of {expected} expected layers "
        f"made none; {elsewhere}); run it inside the context, make it use "
        "torch.nn.functional.scaled_dot_product_attention, or leave it out of `layers`."
    )
