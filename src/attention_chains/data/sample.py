"""One image with its mask and its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention_chains.data.errors import DataError


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Sample:
    """An image, the object looked for in it, and the words that name the object.

    Attributes
    ----------
    id
        Name within the data set.
    image
        (H, W, 3) uint8, RGB.
    mask
        (H, W) bool: the object's pixels, at least one.
    word
        Where the chain starts; a whole word or phrase of `prompt` ("" where no word is needed).
    prompt
        The text that goes with the image.
    meta
        What else the data set knows of the sample.

    Raises
    ------
    DataError
        When an array has another type or shape, the mask is empty, or the word is not in the prompt.
    """

    id: str
    image: np.ndarray
    mask: np.ndarray
    word: str
    prompt: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be segmented or measured."""
        problem = image_problem(self.image) or _mask_problem(self.mask, self.image) or _word_problem(self)
        if problem:
            raise DataError(f"Sample '{self.id}': {problem}; repair it, or leave it out with data.skip_bad=true.")


def image_problem(image: np.ndarray) -> str | None:
    """What keeps an array from being an RGB image (H, W, 3) uint8; None if nothing does."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        return f"the image is {_kind(image)}, not uint8"
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        return f"the image has shape {image.shape}, not (H, W, 3)"
    return None


def _mask_problem(mask: np.ndarray, image: np.ndarray) -> str | None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        return f"the mask is {_kind(mask)}, not bool"
    if mask.shape != image.shape[:2]:
        return f"the mask has shape {mask.shape}, the image {image.shape[:2]} (height, width)"
    return None if mask.any() else "the mask is empty"


def _word_problem(sample: Sample) -> str | None:
    whole_word = rf"(?<!\w){re.escape(sample.word)}(?!\w)"
    if not sample.word or re.search(whole_word, sample.prompt):
        return None
    return f"the word '{sample.word}' is not in the prompt '{sample.prompt}'"


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
