"""Labelled images that lie in files: each alone, or as a stretch of an archive."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from attention_chains.data.errors import DataError
from attention_chains.data.labelled import Labelled

_FORMATS = ("JPEG", "PNG")  # whatever a name says, no other of Pillow's decoders is given a downloaded file
# what Pillow may raise for a file that is no image, or half of one
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class StoredImage:
    """Where an encoded image lies, and its class.

    Attributes
    ----------
    id
        Name within the data set.
    label
        Number of its class; -1 where its class is unknown, and then `problem` says why.
    path
        The file that holds it.
    offset, size
        Which bytes of the file; by default all of them.
    problem
        What is wrong with its class, as the end of a sentence; "" where nothing is.
    """

    id: str
    label: int
    path: Path
    offset: int = 0
    size: int = -1
    problem: str = ""

    def read(self) -> bytes:
        """The encoded image."""
        with self.path.open("rb") as file:  # opened anew each time: a handle must not be shared across a fork
            file.seek(self.offset)
            return file.read(self.size)

    def decode(self) -> np.ndarray:
        """The image: (H, W, 3) uint8, RGB.

        Raises
        ------
        DataError
            It cannot be read.
        """
        try:
            with Image.open(io.BytesIO(self.read()), formats=_FORMATS) as image:
                return np.array(image.convert("RGB"))
        except _UNREADABLE as error:
            reason = getattr(error, "strerror", None) or "its bytes are no whole JPEG or PNG"
            raise DataError(
                f"{self.path}: sample '{self.id}' cannot be read ({reason}); get the file again, or leave it out with "
                "data.skip_bad=true."
            ) from error


class LabelledImages:
    """Labelled images in files, read when asked for; ids and labels are known without reading any.

    Parameters
    ----------
    images
        Where they are; their ids differ.
    classes
        Names of the classes, in the order of their numbers.
    """

    def __init__(self, images: Sequence[StoredImage], classes: Sequence[str]) -> None:
        self.images, self.classes = list(images), list(classes)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Labelled:
        """Read one image.

        Raises
        ------
        DataError
            It cannot be read, or its class is unknown; the message names it.
        """
        stored = self.images[range(len(self))[index]]  # IndexError beyond the end
        if stored.problem:
            raise DataError(f"{stored.path}: sample '{stored.id}' {stored.problem}")
        return Labelled(stored.id, stored.decode(), stored.label, self.classes[stored.label])

    @cached_property
    def ids(self) -> list[str]:
        """Name of every image."""
        return [stored.id for stored in self.images]

    @cached_property
    def labels(self) -> list[int]:
        """Class number of every image; -1 where the class is unknown."""
        return [stored.label for stored in self.images]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the class names and every image's id, label and content, wherever the files lie."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for stored in self.images:
            digest.update(json.dumps([stored.id, stored.label, _content_digest(stored)]).encode())
        return digest.hexdigest()


def _content_digest(stored: StoredImage) -> str | None:
    try:
        return hashlib.sha256(stored.read()).hexdigest()
    except OSError:  # told, with all others, when the samples are checked
        return None
