"""An image whose pixels all have a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention_chains.data.errors import DataError
from attention_chains.data.sample import image_problem

IGNORED = -1  # the label of a pixel that is not measured


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Segmented:
    """An image and the class of every pixel of it.

    Attributes
    ----------
    id
        Name within the data set.
    image
        (H, W, 3) uint8, RGB.
    labels
        (H, W) int64: number of the class, from 0, its place in the data set's `classes`; -1 is ignored. There may be
        no other pixel.

    Raises
    ------
    DataError
        When an array has another type or shape, or a label is no class number.
    """

    id: str
    image: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        problem = image_problem(self.image) or _labels_problem(self.labels, self.image)
        if problem:
            raise DataError(f"Sample '{self.id}': {problem}; repair it, or leave it out with data.skip_bad=true.")


def _labels_problem(labels: np.ndarray, image: np.ndarray) -> str | None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        return f"the labels are {kind}, not int64"
    if labels.shape != image.shape[:2]:
        return f"the labels have shape {labels.shape}, the image {image.shape[:2]} (height, width)"
    return None if labels.min() >= IGNORED else f"a label is {labels.min()}, neither a class nor {IGNORED} (ignored)"
