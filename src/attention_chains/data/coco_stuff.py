"""COCO-Stuff-27: the curated images of val2017 with one of 27 coarse classes a pixel (protocol 3.2)."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from attention_chains.data.coco_annotations import CocoAnnotations
from attention_chains.data.coco_classes import CLASSES, coarse
from attention_chains.data.coco_list import read_ids
from attention_chains.data.errors import DataError
from attention_chains.data.image_files import ImageFiles
from attention_chains.data.segmented import Segmented

PART = "val2017"
IMAGES_URL = "http://images.cocodataset.org/zips/val2017.zip"
LABELS_URL = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip"


class CocoStuff:
    """Images of COCO with the coarse class of every pixel, at one size.

    Images and label maps are cropped to their centre square. The image is resized bilinearly without antialias and
    rounded to uint8 (the original keeps the fractions), the labels by nearest neighbour at pixel centres.

    Parameters
    ----------
    images
        See `open_images`.
    labels
        See `open_labels`.
    listed, sha256
        Which images: see `coco_list.read_ids`.
    size
        Side of images and labels, pixels.
    n
        The first `n` of the list; None is all of it.

    Raises
    ------
    DataError
        When images, labels or list are not to be had. A listed image that is missing, or whose labels do not fit, is
        told when it is asked for.
    """

    classes: ClassVar[list[str]] = list(CLASSES)

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        listed: str | Path,
        sha256: str | None = None,
        size: int = 512,
        n: int | None = None,
    ) -> None:
        self.ids, self.size = read_ids(listed, sha256)[:n], size
        self._images, self._labels = open_images(images), open_labels(labels)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Segmented:
        """Read one image and its labels.

        Raises
        ------
        DataError
            One of the two is missing or broken, they differ in size, or a label is no class; the message names it.
        """
        name = self.ids[range(len(self))[index]]  # IndexError beyond the end
        image, labels = self._images.pixels(name, "RGB"), self._read_labels(name)
        if image.shape[:2] != labels.shape:
            raise self._refusal(name, f"has shape {labels.shape}, its image {image.shape[:2]} (height, width)")
        try:
            classes = coarse(labels)
        except DataError as error:
            raise self._refusal(name, str(error)) from error
        sized = _resized(image, self.size, "bilinear"), _resized(classes, self.size, "nearest-exact")
        return Segmented(name, *sized)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the size and the content of every image and of its labels, wherever they lie."""
        parts = [self.size, self._images.digest(self.ids), self._labels.digest(self.ids)]
        return hashlib.sha256(f"coco_stuff {json.dumps(parts)}".encode()).hexdigest()

    def _read_labels(self, name: str) -> np.ndarray:
        """Label map of an image as it is stored, (H, W) uint8."""
        if isinstance(self._labels, CocoAnnotations):
            return self._labels.labels(name)
        labels = self._labels.pixels(name)
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise self._refusal(name, f"has shape {labels.shape} of {labels.dtype}, not one channel of 8 bits")
        return labels

    def _refusal(self, name: str, problem: str) -> DataError:
        return DataError(f"{self._labels.place(name)} {problem}; repair it, or leave it out with data.skip_bad=true.")


def open_images(path: str | Path) -> ImageFiles:
    """Find the images: a folder of JPEGs (000000000139.jpg, ...), one with them in its `val2017`, or val2017.zip.

    Raises
    ------
    DataError
        There are none; says where to get them.
    """
    return ImageFiles(path, PART, ".jpg", f"get {IMAGES_URL} and set data.path to it, or to its folder.")


def open_labels(path: str | Path) -> ImageFiles | CocoAnnotations:
    """Find the label maps: PNGs in a folder or in stuffthingmaps_trainval2017.zip, or a file of annotations.

    The PNGs of a folder may lie in it or in its `val2017`. A path that ends in .json is the stuff annotations, see
    `CocoAnnotations`.

    Raises
    ------
    DataError
        There are none; says where to get them.
    """
    if Path(path).suffix == ".json":
        return CocoAnnotations(path)
    return ImageFiles(path, PART, ".png", f"get {LABELS_URL} and set data.labels to it, or to its folder.")


def _resized(pixels: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Centre square of (H, W) or (H, W, C), resized to `size`; of the same dtype."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side]).reshape(side, side, -1)
    planes = torch.from_numpy(square).permute(2, 0, 1)[None].float()  # (1, C, side, side)
    resized = F.interpolate(planes, (size, size), mode=mode).round()[0].permute(1, 2, 0)
    return resized.reshape(size, size, *pixels.shape[2:]).numpy().astype(pixels.dtype)
