"""How a metric introduces itself to a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """The label of a table's column.

    Attributes
    ----------
    name
        Column name and key, e.g. "mIoU".
    title
        The name in full.
    better
        Which direction is an improvement: "higher" or "lower".
    unit
        Unit of the printed value, e.g. "%".
    meaning
        One sentence that defines it.
    decimals
        How many a table prints; None for two of a percentage and three of a number without a unit.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    unit: str
    meaning: str
    decimals: int | None = None
