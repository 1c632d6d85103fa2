"""The images that generated ones are compared with by FID and KID: scenes, a folder, or the tars of img2dataset."""

from __future__ import annotations

import hashlib
import io
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attention_chains.data.aesthetics import Filters, index_tars
from attention_chains.data.digit_scenes import DigitScenes, make_scene
from attention_chains.data.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Reference:
    """One image: its id, and (H, W, 3) uint8 pixels."""

    id: str
    image: np.ndarray


class References:
    """A sequence of `Reference`, each read or made when asked for.

    Parameters
    ----------
    ids
        Stable name of every image.
    read
        The image of a place in the sequence, (H, W, 3) uint8.
    fingerprint
        SHA-256 (hex) over all that decides the images.
    crop
        Side of the square that an image's centre is cropped and resized to (bicubic), pixels; None leaves it as it is.
    skipped
        How many images were left out, by the reason.
    """

    def __init__(
        self,
        ids: Sequence[str],
        read: Callable[[int], np.ndarray],
        fingerprint: str,
        crop: int | None = None,
        skipped: dict[str, int] | None = None,
    ) -> None:
        self.ids, self.skipped = list(ids), dict(skipped or {})
        self.fingerprint = hashlib.sha256(f"{fingerprint} crop={crop} n={len(self.ids)}".encode()).hexdigest()
        self._read, self._crop = read, crop

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Reference:
        """Read one image.

        Raises
        ------
        DataError
            It cannot be read, is smaller than its crop, or has another size than the first where none is cropped.
        """
        index = range(len(self))[index]  # IndexError beyond the end
        image = self._read(index)
        if self._crop is not None:
            if min(image.shape[:2]) < self._crop:
                raise _too_small(self.ids[index], image.shape[1::-1], self._crop)
            return Reference(self.ids[index], centre_square(image, self._crop))
        if image.shape != self._shape:
            raise _other_size(self.ids[index], image.shape[1::-1], self._shape[1::-1])
        return Reference(self.ids[index], image)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return self._read(0).shape


class Compared:
    """Samples to generate, with the images they are compared with: the data of a generation run.

    A run's numbers depend on both, and so does its fingerprint.
    """

    def __init__(self, samples: Any, reference: References) -> None:
        self.samples, self.reference = samples, reference

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        """One sample."""
        return self.samples[index]

    @property
    def ids(self) -> list[str]:
        """Name of every sample."""
        return self.samples.ids

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the fingerprints of samples and reference."""
        return hashlib.sha256(f"{self.samples.fingerprint} {self.reference.fingerprint}".encode()).hexdigest()


def open_reference(config: Any) -> References:
    """Open the reference set that a data section names (paper, A.2; protocol 2).

    Parameters
    ----------
    config
        The data section: `reference`, `reference_path`, `reference_n`, `reference_crop`, `seed`, and `min_score`,
        `min_width`, `min_height` of a webdataset.

    Raises
    ------
    DataError
        Something is missing, broken or too little, or images of several sizes are not to be cropped.
    """
    if config.reference not in _OPENERS:
        raise DataError(f"data.reference is '{config.reference}': choose one of {', '.join(_OPENERS)}.")
    return _OPENERS[config.reference](config)


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """The largest centred square of an image, resized bicubic: (H, W, 3) uint8 -> (side, side, 3) uint8."""
    height, width = image.shape[:2]
    whole = min(height, width)
    top, left = (height - whole) // 2, (width - whole) // 2
    square = Image.fromarray(image[top : top + whole, left : left + whole])
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


def _scenes(config: Any) -> References:
    """Held-out digit scenes, by turns of both kinds that the miniature learns from."""
    if config.reference_n is None:
        raise DataError("data.reference_n is None: digit scenes are made to order, so say how many, at least two.")
    kinds = ("mixed", "portrait")
    sources = [DigitScenes("test", config.reference_n, config.seed, objects=kind) for kind in kinds]
    ids = [f"{kinds[i % 2]}-{config.seed}-{i:05d}" for i in range(config.reference_n)]

    def read(index: int) -> np.ndarray:
        return make_scene("test", config.seed, index, kinds[index % 2]).image

    return References(ids, read, " ".join(source.fingerprint for source in sources), config.reference_crop)


def _folder(config: Any) -> References:
    folder = _existing(config)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    _check_enough(len(paths), config, Counter())
    paths = paths[: config.reference_n]
    ids = [path.relative_to(folder).as_posix() for path in paths]
    if config.reference_crop is None:
        _check_sizes(paths, ids)
    digest = hashlib.sha256()
    for path, name in zip(paths, ids, strict=True):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())

    def read(index: int) -> np.ndarray:
        return _decode(paths[index].read_bytes(), str(paths[index]))

    return References(ids, read, digest.hexdigest(), config.reference_crop)


def _webdataset(config: Any) -> References:
    folder = _existing(config)
    filters = Filters(config.min_score, config.min_width, config.min_height)
    kept, skipped = index_tars(folder, filters)
    _check_enough(len(kept), config, skipped)
    kept = kept[: config.reference_n]
    digest = hashlib.sha256("\n".join(f"{each.id} {each.digest}" for each in kept).encode())

    def read(index: int) -> np.ndarray:
        return _decode(kept[index].read(), f"{kept[index].tar}, image {kept[index].id}")

    return References([each.id for each in kept], read, digest.hexdigest(), config.reference_crop, dict(skipped))


def _existing(config: Any) -> Path:
    folder = Path(config.reference_path or "")
    if config.reference_path is None or not folder.is_dir():
        what = "images" if config.reference == "folder" else "tars that img2dataset made of LAION-Aesthetics"
        raise DataError(
            f"The reference set is not at {config.reference_path}: set data.reference_path to a folder of {what}."
        )
    return folder


def _check_enough(found: int, config: Any, skipped: Counter[str]) -> None:
    wanted = config.reference_n or 2
    if found < wanted:
        left_out = ", ".join(f"{number} {reason}" for reason, number in skipped.items())
        raise DataError(
            f"{config.reference_path} holds {found} images{f' (left out: {left_out})' if left_out else ''}, fewer than "
            f"data.reference_n={wanted}: get more of them, or lower data.reference_n."
        )


def _check_sizes(paths: Sequence[Path], ids: Sequence[str]) -> None:
    first = _size(paths[0])
    for path, name in zip(paths, ids, strict=True):
        if (size := _size(path)) != first:
            raise _other_size(name, size, first)


def _size(path: Path) -> tuple[int, int]:
    """Width and height, read off the head of the file."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.size
    except _UNREADABLE as error:
        raise _no_image(str(path)) from error


def _decode(encoded: bytes, where: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            return np.array(image.convert("RGB"))
    except _UNREADABLE as error:
        raise _no_image(where) from error


def _no_image(where: str) -> DataError:
    return DataError(f"{where} is no whole JPEG, PNG or WebP: get it again, or remove it from the reference set.")


def _too_small(name: str, size: tuple[int, ...], crop: int) -> DataError:
    return DataError(
        f"Reference image {name} is {size[0]} x {size[1]} pixels, smaller than data.reference_crop={crop}: keep images "
        "as large as they were (img2dataset: --resize_mode=no, not its default), or lower data.reference_crop."
    )


def _other_size(name: str, size: Sequence[int], first: Sequence[int]) -> DataError:
    return DataError(
        f"Reference image '{name}' has {size[0]} x {size[1]} pixels and the first {first[0]} x {first[1]}: give one "
        "size to all, or have them cropped with data.reference_crop=512."
    )


_OPENERS: dict[str, Callable[[Any], References]] = {
    "digit_scenes": _scenes,
    "folder": _folder,
    "webdataset": _webdataset,
}
