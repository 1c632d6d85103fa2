"""Digit scenes: real handwritten digits, coloured, on real photographs, with exact masks and captions.

Everything comes with the installed packages (scikit-learn's `load_digits` and its two photographs, scikit-image's
bundled photographs), so no network is needed. Scene `i` of a split is a pure function of `(split, seed, i)`; the two
splits share neither a digit image nor a photograph crop.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attention_chains.data.errors import DataError
from attention_chains.data.photographs import read_photograph
from attention_chains.data.sample import Sample

VERSION = "1"  # part of the fingerprint: raise it whenever a scene's pixels, mask or caption change
SIDE = 64
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "pink": (240, 120, 190),
    "cyan": (60, 210, 220),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
# (photograph, first column, last column) as fractions of its width
PHOTOGRAPHS: Mapping[str, Sequence[tuple[str, float, float]]] = {
    "train": (
        ("china.jpg", 0.0, 0.7),
        ("flower.jpg", 0.0, 0.7),
        ("coffee", 0.0, 1.0),
        ("astronaut", 0.0, 1.0),
        ("chelsea", 0.0, 1.0),
        ("brick", 0.0, 1.0),
        ("grass", 0.0, 1.0),
    ),
    "test": (
        ("china.jpg", 0.7, 1.0),
        ("flower.jpg", 0.7, 1.0),
        ("rocket", 0.0, 1.0),
        ("gravel", 0.0, 1.0),
        ("motorcycle_left", 0.0, 1.0),
    ),
}
OBJECTS = ("one", "two", "mixed", "portrait")
_SPLIT_CODE = {"train": 0, "test": 1}


@dataclass(frozen=True)
class SceneObject:
    """One painted digit: its class name, its colour name and its exact mask."""

    digit: str
    colour: str
    mask: np.ndarray  # (64, 64) bool

    @property
    def name(self) -> str:
        """How the caption calls it, e.g. "red three"."""
        return f"{self.colour} {self.digit}"


@dataclass(frozen=True)
class Scene:
    """A 64 x 64 image and the one or two digits painted on it."""

    image: np.ndarray  # (64, 64, 3) uint8
    objects: tuple[SceneObject, ...]

    @property
    def caption(self) -> str:
        """The full caption, e.g. "a photo of a red three and a blue seven"."""
        return "a photo of " + " and ".join(f"a {item.name}" for item in self.objects)


class DigitScenes:
    """Held-out (or training) digit scenes as samples for zero-shot segmentation.

    Parameters
    ----------
    split
        "train" or "test".
    n
        Number of scenes.
    seed
        Which sequence of scenes.
    word
        Where the chain starts: the target object's "colour" word or its "digit" word.
    prompt
        Template over `{caption}`, `{word}`, `{colour}` and `{digit}`.
    objects
        Objects a scene: "one", "two", "mixed" (60 % one, 40 % two) or "portrait" (one large digit on a gradient). The
        target is the first object.

    Raises
    ------
    DataError
        For an unknown split, word or number of objects, fewer than one scene, no seed, or a template that cannot be
        filled in.
    """

    def __init__(
        self,
        split: str = "test",
        n: int = 200,
        seed: int = 0,
        word: str = "colour",
        prompt: str = "{caption}",
        objects: str = "one",
    ) -> None:
        _check_choice("data.split", split, tuple(_SPLIT_CODE))
        _check_choice("data.word", word, ("colour", "digit"))
        _check_choice("data.objects", objects, OBJECTS)
        if n is None or n < 1:
            raise DataError(f"data.n is {n}: digit scenes are made to order, so say how many, at least one.")
        if seed is None or seed < 0:
            raise DataError(f"data.seed is {seed}: say which sequence of scenes, by a number from 0.")
        _check_prompt(prompt)
        self.split, self.n, self.seed, self.word, self.prompt, self.objects = split, n, seed, word, prompt, objects

    def __len__(self) -> int:
        return self.n

    @functools.cached_property
    def ids(self) -> list[str]:
        """One stable name a scene, e.g. "test-0-00017"."""
        return [f"{self.split}-{self.seed}-{index:05d}" for index in range(self.n)]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the generator's version and settings and the pixels of its sources."""
        digest = hashlib.sha256(f"digit_scenes {VERSION} {self.split} {self.seed} {self.objects}".encode())
        digest.update(f"{self.word} {self.prompt}".encode())
        for source in (handwritten_digits(self.split)[0], *(photo for photo in _photographs(self.split))):
            digest.update(np.ascontiguousarray(source).tobytes())
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.n:
            raise IndexError(index)
        scene = make_scene(self.split, self.seed, index, self.objects)
        target = scene.objects[0]
        word = getattr(target, self.word)
        fields = {"caption": scene.caption, "word": word, "colour": target.colour, "digit": target.digit}
        return Sample(self.ids[index], scene.image, target.mask, word, self.prompt.format(**fields), meta=fields)


def make_scene(split: str, seed: int, index: int, objects: str = "mixed") -> Scene:
    """Scene `index` of a split: a pure function of its arguments.

    Parameters
    ----------
    split
        "train" or "test": which digits and photographs may be used.
    seed, index
        Which scene.
    objects
        "one", "two", "mixed" (60 % one object, 40 % two), or "portrait": one that fills most of the frame, on a
        gradient.
    """
    rng = np.random.default_rng([seed, _SPLIT_CODE[split], index])
    portrait = objects == "portrait"
    canvas = (_gradient(rng) if portrait else background(split, rng)) * 0.75 + 30
    count = {"one": 1, "two": 2, "portrait": 1}.get(objects) or (1 if rng.random() < 0.6 else 2)
    painted = []
    colours = rng.permutation(list(COLOURS))  # two objects never share a colour or a class: each word names one
    boxes = [_box(48, 61, rng)] if portrait else _boxes(count, rng)
    for colour, (row, column, side) in zip(colours, boxes, strict=False):
        alpha, digit = _glyph(split, side, rng, {item.digit for item in painted})
        full = np.zeros((SIDE, SIDE), np.float32)
        full[row : row + side, column : column + side] = alpha
        ink = np.asarray(COLOURS[colour]) + rng.uniform(-12, 12, 3)
        canvas = canvas * (1 - full[..., None]) + ink * full[..., None]
        painted.append(SceneObject(digit, str(colour), full > 0.5))
    return Scene(canvas.clip(0, 255).round().astype(np.uint8), tuple(painted))


def _boxes(count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Disjoint square boxes (row, column, side): one of 34 to 50 pixels, or two of 24 to 31 side by side."""
    if count == 1:
        return [_box(34, 51, rng)]
    half, boxes = SIDE // 2, []
    for start in rng.permutation([0, half]):
        side = int(rng.integers(24, 32))
        along, across = start + rng.integers(0, half - side + 1), rng.integers(0, SIDE - side + 1)
        boxes.append((int(across), int(along), side))
    if rng.random() < 0.5:  # one above the other
        boxes = [(column, row, side) for row, column, side in boxes]
    return boxes


def _box(smallest: int, limit: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """A square box (row, column, side) anywhere in the frame, its side below the limit."""
    side = int(rng.integers(smallest, limit))
    row, column = rng.integers(0, SIDE - side + 1, 2)
    return int(row), int(column), side


def _glyph(split: str, side: int, rng: np.random.Generator, taken: set[str]) -> tuple[np.ndarray, str]:
    """A handwritten digit of a class not yet taken: its opacity (side, side) in [0, 1], and its class name."""
    images, labels = handwritten_digits(split)
    pick = next(i for i in rng.permutation(len(images)) if DIGITS[labels[i]] not in taken)
    large = Image.fromarray(images[pick]).resize((side, side), Image.Resampling.BICUBIC)
    return ((np.asarray(large) - 0.3) * 3).clip(0, 1), DIGITS[labels[pick]]


def background(split: str, rng: np.random.Generator) -> np.ndarray:
    """A photograph crop (70 %) or a four-corner gradient with low-frequency noise (30 %): (64, 64, 3) in [0, 255]."""
    if rng.random() >= 0.7:
        return _gradient(rng)
    photos = _photographs(split)
    photo = photos[int(rng.integers(len(photos)))]
    height, width, _ = photo.shape
    side = int(rng.integers(SIDE, min(height, width, 3 * SIDE) + 1))
    row, column = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = Image.fromarray(photo[row : row + side, column : column + side])
    return np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    corners = rng.uniform(0, 255, (2, 2, 3))
    ramp = np.linspace(0, 1, SIDE)
    blend = np.stack([1 - ramp, ramp], axis=1)  # (64, 2)
    smooth = np.einsum("yi,xj,ijc->yxc", blend, blend, corners)
    coarse = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
    noise = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    return (smooth + 0.25 * (noise - 127.5)).clip(0, 255).astype(np.float32)


@functools.cache
def handwritten_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Digit images (m, 8, 8) float32 in [0, 1] and labels (m,); every sixth image is kept for the test split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    held_out = np.arange(len(images)) % 6 == 0
    keep = held_out if split == "test" else ~held_out
    return (images[keep].reshape(-1, 8, 8) / 16).astype(np.float32), labels[keep]


@functools.cache
def _photographs(split: str) -> tuple[np.ndarray, ...]:
    """The split's photographs (or its part of them), each (H, W, 3) uint8."""
    return tuple(_part(_read_photograph(name), first, last) for name, first, last in PHOTOGRAPHS[split])


def _part(photo: np.ndarray, first: float, last: float) -> np.ndarray:
    width = photo.shape[1]
    return photo[:, round(first * width) : round(last * width)]


def _read_photograph(name: str) -> np.ndarray:
    if name.endswith(".jpg"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(name)
    return read_photograph(name)


def _check_prompt(prompt: str) -> None:
    try:
        prompt.format(caption="", word="", colour="", digit="")
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"data.prompt '{prompt}' is no template over {{caption}}, {{word}}, {{colour}} and {{digit}}: repair it."
        ) from error


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise DataError(f"{key} is '{value}': choose one of {', '.join(choices)}.")
