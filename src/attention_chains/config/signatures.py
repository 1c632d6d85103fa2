"""Which keys a method takes and what it takes for granted, read off its file: nothing is imported, and so not torch."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

METHODS = Path(__file__).resolve().parents[1] / "methods"
FUNCTIONS = ("scores", "ranking", "saliency", "anchors", "segments")  # one of each kind of method


@cache
def keys_of(method: str) -> dict[str, Any] | None:
    """The keyword arguments of a method with their defaults; None for a method that does not exist.

    Parameters
    ----------
    method : str
        Name of a file of the methods room.
    """
    path = METHODS / f"{method}.py"
    if not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS)
    function = next(found, None)
    return None if function is None else _defaults(function.args)


def _defaults(arguments: ast.arguments) -> dict[str, Any]:
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    named = dict(zip(with_default, arguments.defaults, strict=True))
    named |= {each: value for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value}
    return {each.arg: ast.literal_eval(value) for each, value in named.items()}
