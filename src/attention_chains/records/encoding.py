"""JSON that reads back exactly as it was written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from attention_chains.records.errors import RecordError


def plain(value: Any, field: str) -> Any:
    """Copy of `value` in JSON's own types; tuples become lists, subclasses of `float`, `int` and `str` their base.

    Parameters
    ----------
    value : Any
        Mappings with string keys, lists, tuples, strings, integers, finite floats, booleans and None, nested at will.
    field : str
        What `value` is called in an error.

    Raises
    ------
    RecordError
        A value that would not read back bit-identical (NaN and infinities among them), with the field it is in.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {_key(key, field): plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{field}[{position}]") for position, item in enumerate(value)]
    return _scalar(value, field)


def encode(value: Any) -> str:
    """One line of JSON, keys in their own order. Floats are written by `repr`, which reads back equal."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> str:
    """One line of JSON that is the same for equal content, whatever the order of keys."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, sort_keys=True)


def encode_readable(value: Any) -> str:
    """Indented JSON, for files that people open."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def decode(line: str | bytes) -> Any:
    """Value of one line; ValueError where it is not strict JSON."""
    return json.loads(line, parse_constant=_refuse_constant)


def _key(key: Any, field: str) -> str:
    if isinstance(key, str):
        return str(key)
    raise RecordError(f"{field} has the key {key!r} of type {type(key).__name__}: name every field by a string.")


def _scalar(value: Any, field: str) -> str | int | float:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{field} is {float(value)}: records hold finite numbers only, so mend what computed it.")
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise RecordError(f"{field} is of {type(value)}: convert it to a float, int, str, list or dict.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
