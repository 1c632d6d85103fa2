"""Digit scenes for classification: which digit is painted on the photograph."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import ClassVar

from attention_chains.data.digit_scenes import DIGITS, DigitScenes, make_scene
from attention_chains.data.labelled import Labelled


class DigitClasses:
    """Held-out (or training) scenes of one digit each, labelled with the digit.

    Scene `i` is a pure function of `(split, seed, i)`; the two splits share neither a digit image nor a photograph
    crop.

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

    classes: ClassVar[list[str]] = list(DIGITS)

    def __init__(self, split: str = "test", n: int | None = 200, seed: int = 0) -> None:
        self._scenes = DigitScenes(split, n, seed)

    def __len__(self) -> int:
        """Count the scenes, without making any."""
        return len(self._scenes)

    def __getitem__(self, index: int) -> Labelled:
        """Make one scene: a 64 x 64 image and its digit."""
        sample = self._scenes[range(len(self))[index]]
        digit = sample.meta["digit"]
        return Labelled(sample.id, sample.image, DIGITS.index(digit), digit)

    @property
    def ids(self) -> list[str]:
        """One stable name a scene, e.g. "test-0-00017"."""
        return self._scenes.ids

    @cached_property
    def labels(self) -> list[int]:
        """The digit of every scene; each is painted to know it, about a millisecond apiece."""
        scenes = (make_scene(self._scenes.split, self._scenes.seed, index, "one") for index in range(len(self)))
        return [DIGITS.index(scene.objects[0].digit) for scene in scenes]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the generator's version and settings and the pixels of its sources."""
        return hashlib.sha256(f"digit_classes {self._scenes.fingerprint}".encode()).hexdigest()
