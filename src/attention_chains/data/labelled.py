"""One image with its class, and the draw of some images out of many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention_chains.data.errors import DataError
from attention_chains.data.sample import image_problem


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Labelled:
    """An image and the class it belongs to.

    Attributes
    ----------
    id
        Name within the data set.
    image
        (H, W, 3) uint8, RGB.
    label
        Number of the class, from 0: its place in the data set's `classes`.
    class_name
        The class in words.

    Raises
    ------
    DataError
        When the image has another type or shape, the label is no class number, or the class has no name.
    """

    id: str
    image: np.ndarray
    label: int
    class_name: str

    def __post_init__(self) -> None:
        """Refuse what cannot be classified."""
        problem = image_problem(self.image) or _label_problem(self.label) or _name_problem(self.class_name)
        if problem:
            raise DataError(f"Sample '{self.id}': {problem}; repair it, or leave it out with data.skip_bad=true.")


def draw(count: int, n: int | None, seed: int | None) -> list[int]:
    """Numbers of the images to use: `n` of `count`, drawn without replacement; all, in order, where `n` is None.

    A smaller draw is the beginning of a larger one of the same seed. The generator is numpy's RandomState, whose
    sequence is frozen: other generators may change with numpy's version (protocol 9, row 24).

    Parameters
    ----------
    count
        Number of images there are.
    n
        How many to draw; all of them, shuffled, where there are fewer.
    seed
        Seed of the draw, 0 to 2^32 - 1; without `n` there is no need of one.

    Returns
    -------
    list of int
        min(n, count) distinct numbers below `count`.

    Raises
    ------
    DataError
        A draw without such a seed.
    """
    if n is None:
        return list(range(count))
    if seed is None or not 0 <= seed < 2**32:
        raise DataError(f"data.seed is {seed}: {n} of {count} images are drawn by it, so give a number below 2^32.")
    return np.random.RandomState(seed).permutation(count)[:n].tolist()


def _label_problem(label: int) -> str | None:
    if type(label) is int and label >= 0:
        return None
    return f"the label is {label!r}, not the number of a class"


def _name_problem(name: str) -> str | None:
    return None if isinstance(name, str) and name else f"the class name is {name!r}, not a word"
