"""Imagenette: ten classes of ImageNet at full size, read by torchvision's reader (paper, section B; protocol 5)."""

from __future__ import annotations

import logging
from pathlib import Path

from torchvision import datasets

from attention_chains.data.errors import DataError
from attention_chains.data.labelled import draw
from attention_chains.data.labelled_images import LabelledImages, StoredImage

URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz"
FOLDER = "imagenette2"
IMAGES = {"train": 9469, "val": 3925}
SYNSETS = (
    "n01440764",
    "n02102040",
    "n02979186",
    "n03000684",
    "n03028079",
    "n03394916",
    "n03417042",
    "n03425413",
    "n03445777",
    "n03888257",
)
_log = logging.getLogger(__name__)


class Imagenette(LabelledImages):
    """Images of Imagenette (version 2, full size), of one of its two splits. Nothing is downloaded.

    Parameters
    ----------
    path
        The folder `imagenette2`, or the folder that holds it.
    split
        "train" or "val".
    n
        How many images to draw; None is all of them, class by class.
    seed
        Seed of the draw.

    Raises
    ------
    DataError
        When the folder is missing, or its ten synset folders are not just those; or for an unknown split. An image that
        cannot be read is told when it is asked for.
    """

    def __init__(self, path: str | Path, split: str = "val", n: int | None = None, seed: int | None = 0) -> None:
        if split not in IMAGES:
            raise DataError(f"data.split is '{split}': choose one of {', '.join(IMAGES)}.")
        reader = _open_reader(Path(path), split)
        found = [_stored(split, *reader[number]) for number in range(len(reader))]
        if len(found) != IMAGES[split]:
            _log.warning("%s (%s) holds %d images; the published %d.", path, split, len(found), IMAGES[split])
        super().__init__([found[number] for number in draw(len(found), n, seed)], [name for name, *_ in reader.classes])


def _open_reader(path: Path, split: str) -> datasets.Imagenette:
    """Torchvision's reader, which gives paths in place of pixels: ids and labels need no image."""
    root = path.parent if path.name == FOLDER else path
    folder = root / FOLDER / split
    _check_folders(folder)
    try:
        return datasets.Imagenette(root, split, loader=Path)
    except FileNotFoundError as error:
        raise DataError(f"A synset folder in {folder} holds no image: unpack {URL} there again.") from error


def _check_folders(folder: Path) -> None:
    """Refuse other synsets than the ten: the reader would number the rest anew, or not know their names."""
    if not folder.is_dir():
        absent = folder if folder.parent.is_dir() else folder.parent
        raise DataError(
            f"Imagenette is not at {absent}: download {URL}, unpack it, and set data.path to its folder {FOLDER}."
        )
    found = {each.name for each in folder.iterdir() if each.is_dir()}
    absent, unknown = sorted(set(SYNSETS) - found), sorted(found - set(SYNSETS))
    if absent:
        raise DataError(f"{folder} lacks the synset folders {', '.join(absent)}: unpack {URL} there again.")
    if unknown:
        raise DataError(f"{folder} has folders of no synset of Imagenette, {', '.join(unknown)}: move them elsewhere.")


def _stored(split: str, path: Path, label: int) -> StoredImage:
    return StoredImage(f"{split}/{path.parent.name}/{path.stem}", label, path)
