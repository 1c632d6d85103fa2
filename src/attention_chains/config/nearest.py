"""Which of the valid names a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """Up to three valid names, best first: those spelled alike, then dotted ones that end in `name`."""
    valid = list(dict.fromkeys(valid))
    alike = difflib.get_close_matches(name, valid, n=3, cutoff=0.6)
    same_end = [other for other in valid if other.endswith(f".{name}")]
    return list(dict.fromkeys(alike + same_end))[:3]


def suggestion(name: str, valid: Iterable[str]) -> str:
    """The end of an error sentence: the nearest names, or where to look when none is near."""
    near = nearest(name, valid)
    return f"did you mean {' or '.join(near)}?" if near else "`python run.py --help` lists the valid names."
