"""Photographs that scikit-image brings along, for pictures only: they have no mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attention_chains.data.errors import DataError


def read_photograph(name: str) -> np.ndarray:
    """One of scikit-image's bundled photographs: (H, W, 3) uint8.

    By its file rather than by its function: some functions ask for a set of files, of which only one is bundled.

    Raises
    ------
    DataError
        When scikit-image brings no such photograph.
    """
    from skimage import data, io

    found = sorted(Path(data.__file__).parent.glob(f"{name}.*"))
    if not found:
        raise DataError(f"scikit-image brings no photograph '{name}': name another one of its data folder.")
    photograph = io.imread(found[0])
    return np.stack([photograph] * 3, axis=-1) if photograph.ndim == 2 else photograph[..., :3]
