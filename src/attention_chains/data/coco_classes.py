"""The 27 coarse classes of COCO-Stuff, and which of them each of the 182 fine ones belongs to (protocol 3.2)."""

from __future__ import annotations

import numpy as np

from attention_chains.data.errors import DataError
from attention_chains.data.segmented import IGNORED

THINGS = (
    "electronic", "appliance", "food", "furniture", "indoor", "kitchen", "accessory", "animal", "outdoor", "person",
    "sports", "vehicle",
)  # fmt: skip
STUFF = (
    "ceiling", "floor", "food-stuff", "furniture-stuff", "raw-material", "textile", "wall", "window", "building",
    "ground", "plant", "sky", "solid", "structural", "water",
)  # fmt: skip
CLASSES = (*THINGS, *STUFF)
FINE = 182  # fine classes: a label map's values are 0 to 181
VOID = 255  # a label map's value where there is no class

# a coarse class, and up to which value (included) the things are of it: COCO's categories are ordered so
_THINGS_UP_TO = (
    (9, 0),
    (11, 8),
    (8, 14),
    (7, 24),
    (6, 32),
    (10, 42),
    (5, 50),
    (2, 60),
    (3, 70),
    (0, 76),
    (1, 82),
    (4, 90),
)
# the coarse class of the values 91 to 181, which are stuff in alphabetical order
_STUFF = (
    17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21, 15, 25, 13, 13, 13, 13, 13, 22, 26,
    14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17, 16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21,
    24, 20, 17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18, 18, 18, 18, 18, 18, 18, 26,
    26, 19, 19, 24,
)  # fmt: skip
_UNMAPPED = IGNORED - 1


def coarse(labels: np.ndarray) -> np.ndarray:
    """Coarse class of every pixel.

    Parameters
    ----------
    labels
        (H, W) uint8 label map: 0 to 181, or 255 where there is no class.

    Returns
    -------
    array
        (H, W) int64: 0 to 26, the place in `CLASSES`, or -1.

    Raises
    ------
    DataError
        A value is none of these; as the end of a sentence.
    """
    mapped = _TABLE[labels]
    if (mapped == _UNMAPPED).any():
        odd = int(labels[mapped == _UNMAPPED].min())
        raise DataError(f"holds the value {odd}: COCO-Stuff's maps hold 0 to {FINE - 1}, and {VOID} for no class")
    return mapped


def _table() -> np.ndarray:
    """Coarse class by value, (256,) int64."""
    table = np.full(256, _UNMAPPED, np.int64)
    first = 0
    for name, last in _THINGS_UP_TO:
        table[first : last + 1] = name
        first = last + 1
    table[first:FINE] = _STUFF
    table[VOID] = IGNORED
    return table


_TABLE = _table()
