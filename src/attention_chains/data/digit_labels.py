"""Digit scenes as multi-class segmentation: every pixel is background or one of ten digits."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import ClassVar

import numpy as np

from attention_chains.data.digit_scenes import DIGITS, DigitScenes, Scene, make_scene
from attention_chains.data.segmented import Segmented


class DigitLabels:
    """Held-out (or training) scenes of one or two digits, with the class of every pixel: 0, or 1 + the digit.

    Scene `i` is a pure function of `(split, seed, i)`: 60 % hold one digit, 40 % two of different classes, which do not
    overlap. The two splits share neither a digit image nor a photograph crop.

    Parameters
    ----------
    split
        "train" or "test".
    n
        Number of scenes.
    seed
        Which sequence of scenes.

    Raises
    ------
    DataError
        For an unknown split, fewer than one scene, or no seed.
    """

    classes: ClassVar[list[str]] = ["background", *DIGITS]

    def __init__(self, split: str = "test", n: int | None = 200, seed: int = 0) -> None:
        self._scenes = DigitScenes(split, n, seed, objects="mixed")

    def __len__(self) -> int:
        """Count the scenes, without making any."""
        return len(self._scenes)

    def __getitem__(self, index: int) -> Segmented:
        """Make one scene: a 64 x 64 image and its labels."""
        index = range(len(self))[index]  # IndexError beyond the end
        scene = make_scene(self._scenes.split, self._scenes.seed, index, self._scenes.objects)
        return Segmented(self.ids[index], scene.image, _labels(scene))

    @property
    def ids(self) -> list[str]:
        """One stable name a scene, e.g. "test-0-00017"."""
        return self._scenes.ids

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the generator's version and settings and the pixels of its sources."""
        return hashlib.sha256(f"digit_labels {self._scenes.fingerprint}".encode()).hexdigest()


def _labels(scene: Scene) -> np.ndarray:
    """Class of every pixel, (64, 64) int64."""
    labels = np.zeros(scene.image.shape[:2], np.int64)
    for item in scene.objects:
        labels[item.mask] = 1 + DIGITS.index(item.digit)
    return labels
