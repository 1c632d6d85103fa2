"""The validation images of ImageNet (ILSVRC 2012): a folder of synset folders, or the archives as published.

Both hold the same images under the same names, and give the same data set: ids, order, labels and fingerprint.
"""

from __future__ import annotations

import functools
import logging
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attention_chains.data.errors import DataError
from attention_chains.data.ilsvrc_devkit import DEVKIT, read_synsets
from attention_chains.data.labelled import draw
from attention_chains.data.labelled_images import LabelledImages, StoredImage
from attention_chains.data.words import WNID

URL = "https://image-net.org/download-images"
ARCHIVE = "ILSVRC2012_img_val.tar"
IMAGES = 50_000
_SUFFIXES = (".jpeg", ".jpg", ".png")
_log = logging.getLogger(__name__)


class ImageNet(LabelledImages):
    """Validation images of ImageNet, drawn by a seed (protocol 9, row 24).

    Classes are in the order of their synset ids, named as OpenAI named them for CLIP. Whatever the layout and the
    machine, the images are ordered by name before the draw; `ids` lists those that were drawn.

    Parameters
    ----------
    path
        One of: a folder of synset folders (n01440764/ILSVRC2012_val_00000293.JPEG, ...); a folder with such folders in
        its `val`; the archive `ILSVRC2012_img_val.tar`, or its folder, with `ILSVRC2012_devkit_t12.tar.gz` beside it.
        Archives are read where they are, nothing is unpacked.
    n
        How many images to draw; None is all of them, ordered by name.
    seed
        Seed of the draw.

    Raises
    ------
    DataError
        When there is nothing of the kind, or an archive is broken. An image that cannot be read, or whose synset is
        none of the 1000, is told when it is asked for.
    """

    def __init__(self, path: str | Path, n: int | None = None, seed: int | None = 0) -> None:
        found = _find(Path(path))
        if len(found) != IMAGES:
            _log.warning("%s holds %d images; the published validation set holds %d.", path, len(found), IMAGES)
        super().__init__([found[number] for number in draw(len(found), n, seed)], class_names())


@functools.cache
def synsets() -> tuple[str, ...]:
    """The 1000 synset ids of the challenge, sorted: a class's number is its place here."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def class_names() -> list[str]:
    """The 1000 class names that OpenAI made for CLIP, in the order of `synsets`; two of them occur twice."""
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


def _find(path: Path) -> list[StoredImage]:
    """Every image at `path`, ordered by name."""
    for folder in (path, path / "val"):
        if _has_synsets(folder):
            return _from_folders(folder)
    archive = path if path.is_file() else path / ARCHIVE
    if archive.is_file():
        return _from_archive(archive)
    raise DataError(
        f"ImageNet's validation images are not at {path}: get {ARCHIVE} and {DEVKIT} from {URL} (an account and its "
        "terms are needed) and set data.path to their folder, or to a folder of synset folders (n01440764, ...)."
    )


def _has_synsets(folder: Path) -> bool:
    return folder.is_dir() and any(WNID.fullmatch(each.name) and each.is_dir() for each in folder.iterdir())


def _from_folders(root: Path) -> list[StoredImage]:
    """Every image of every folder; also of one that is no synset, to be counted as such."""
    folders = [folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    files = [file for folder in folders for file in folder.iterdir() if _is_image(file.name)]
    if not files:
        raise DataError(f"The synset folders in {root} hold no image: fill them, or set data.path to those that do.")
    files.sort(key=lambda file: (file.stem, file.parent.name, file.name))  # not as the file system lists them
    return [_stored(name, file.parent.name, file) for name, file in zip(_distinct_names(files), files, strict=True)]


def _from_archive(archive: Path) -> list[StoredImage]:
    """Every image of the archive; its synset is told by the devkit, in the order of the names."""
    status = archive.stat()
    members = _index(archive, status.st_size, status.st_mtime_ns)
    devkit = archive.with_name(DEVKIT)
    if not devkit.is_file():
        raise DataError(f"The classes of {archive} are told by {DEVKIT}, which is not beside it: get it from {URL}.")
    wnids = read_synsets(devkit)
    if len(wnids) != len(members):
        raise DataError(
            f"{archive} holds {len(members)} images and {devkit} tells the classes of {len(wnids)}: get both again, "
            f"from {URL}."
        )
    return [
        _stored(Path(name).stem, wnid, archive, offset, size)
        for (name, offset, size), wnid in zip(members, wnids, strict=True)
    ]


def _stored(name: str, wnid: str, path: Path, offset: int = 0, size: int = -1) -> StoredImage:
    label = _numbers().get(wnid, -1)
    problem = f"is of '{wnid}', none of ImageNet's 1000 synsets; remove it, or leave it out with data.skip_bad=true."
    return StoredImage(name, label, path, offset, size, problem if label < 0 else "")


@functools.cache
def _numbers() -> dict[str, int]:
    return {wnid: number for number, wnid in enumerate(synsets())}


@functools.lru_cache(maxsize=2)  # 50,000 headers take seconds; a run opens its data twice
def _index(archive: Path, size: int, modified: int) -> tuple[tuple[str, int, int], ...]:
    """Name, offset and size of every image in an archive of this size and time of change, ordered by name."""
    try:
        with tarfile.open(archive, "r:") as tar:
            found = [(Path(each.name).name, each.offset_data, each.size) for each in tar if each.isreg()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive} is no complete tar archive ({error}): get {ARCHIVE} again from {URL}.") from error
    return tuple(sorted(member for member in found if _is_image(member[0])))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _distinct_names(files: Sequence[Path]) -> list[str]:
    """The name of each file, with its folder where others share the name: an id must name one sample."""
    counts = Counter(file.stem for file in files)
    return [file.stem if counts[file.stem] == 1 else f"{file.parent.name}/{file.name}" for file in files]
