"""COCO-Stuff's label maps from its annotations, by pycocotools: another source where the PNGs are not at hand."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from attention_chains.data.coco_classes import VOID
from attention_chains.data.errors import DataError

STUFF_FILE = "stuff_val2017.json"
THINGS_FILE = "instances_val2017.json"
URLS = {
    STUFF_FILE: "http://images.cocodataset.org/annotations/stuff_annotations_trainval2017.zip",
    THINGS_FILE: "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
}
_OTHER = 183  # the stuff file's category of every thing; the things' own file says which
_BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError)  # what pycocotools may raise for another file


class CocoAnnotations:
    """Label maps painted from COCO's annotations: stuff first, things over it.

    The published PNGs were made from the same annotations. Where two things overlap, the later one in the file is seen
    here; the PNGs need not agree with that.

    Parameters
    ----------
    stuff
        `stuff_val2017.json`, with `instances_val2017.json` beside it.

    Raises
    ------
    DataError
        pycocotools is not installed, or a file is missing or of another form.
    """

    def __init__(self, stuff: str | Path) -> None:
        self.path = Path(stuff)
        self._stuff, self._things = _open(self.path), _open(self.path.with_name(THINGS_FILE))

    def place(self, name: str) -> str:
        """Where a label map comes from, for a message."""
        return f"{self.path}, image {name}"

    def labels(self, name: str) -> np.ndarray:
        """The label map of an image: (H, W) uint8, a category's id - 1, or 255 where there is none.

        Raises
        ------
        DataError
            The annotations do not know the image, or one of them is broken.
        """
        known = self._stuff.imgs.get(int(name))
        if known is None:
            raise DataError(f"{self.place(name)} is listed but not there: get {URLS[STUFF_FILE]} again.")
        try:
            labels = np.full((known["height"], known["width"]), VOID, np.uint8)
            for source in (self._stuff, self._things):
                _paint(labels, source, int(name))
        except _BROKEN as error:
            raise DataError(f"{self.place(name)} has a broken annotation ({error}): get it again.") from error
        return labels

    def digest(self, names: Iterable[str]) -> str:
        """SHA-256 (hex) over the names and the two files."""
        digest = hashlib.sha256(" ".join(names).encode())
        for path in (self.path, self.path.with_name(THINGS_FILE)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def _paint(labels: np.ndarray, source: Any, image: int) -> None:
    """Paint one file's annotations of an image over its label map, in the order of the file."""
    for each in source.imgToAnns.get(image, ()):
        if each["category_id"] != _OTHER:
            labels[source.annToMask(each) != 0] = _value(each["category_id"])


def _value(category: int) -> int:
    if not 1 <= category < _OTHER:
        raise ValueError(f"category {category} is none of COCO-Stuff's 1 to {_OTHER}")
    return category - 1


def _open(path: Path) -> Any:
    """Index of a file of annotations, pycocotools' own."""
    try:
        index = importlib.import_module("pycocotools.coco").COCO  # optional, hence not declared
    except ImportError as error:
        raise DataError(f"{path.name} is read by pycocotools, which is not here: `pip install pycocotools`.") from error
    if not path.is_file():
        raise DataError(f"There is no {path}: get it from {URLS.get(path.name, URLS[STUFF_FILE])} and set data.labels.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells how long each file took
            return index(str(path))
    except (*_BROKEN, AssertionError) as error:
        raise DataError(f"{path} holds no COCO annotations ({error}): get it again.") from error
