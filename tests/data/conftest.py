"""Classification data sets in small, in the layouts in which they are published."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """An encoded image of noise: its number decides pixels and size, its mode is RGB unless told."""

    def encode(number: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
        draw = np.random.default_rng(number)
        height, width = draw.integers(8, 14, 2).tolist()
        pixels = draw.integers(0, 256, (height, width, len(mode)), np.uint8)  # a letter a channel
        file = io.BytesIO()
        Image.frombytes(mode, (width, height), pixels.tobytes()).save(file, kind)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Mapping[str, bytes | None]], Path]:
    """Write an archive of files (content) and folders (None), in the order given; compressed if its name says so."""

    def write(path: Path, content: Mapping[str, bytes | None]) -> Path:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.type, member.size = (tarfile.DIRTYPE, 0) if data is None else (tarfile.REGTYPE, len(data))
                tar.addfile(member, io.BytesIO(data or b""))
        return path

    return write


@pytest.fixture(scope="session")
def meta_mat() -> Callable[[Mapping[int, str]], bytes]:
    """The devkit's meta.mat for ILSVRC2012_ID -> WNID: a (synsets, 1) struct array with the published fields.

    Two synsets that lie above the classes follow them, as 860 do in the published file.
    """
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]

    def write(wnids: Mapping[int, str]) -> bytes:
        above = {max(wnids) + 1: "n00001740", max(wnids) + 2: "n00001930"}
        table = np.empty((len(wnids) + len(above), 1), [(field, object) for field in fields])
        for row, (number, wnid) in enumerate((wnids | above).items()):
            children = np.arange(2.0) if number in above else np.zeros((0, 1))
            table[row, 0] = (float(number), wnid, f"{wnid}, also", "a thing", len(children), children, 0.0, 1300.0)
        file = io.BytesIO()
        savemat(file, {"synsets": table})
        return file.getvalue()

    return write


@pytest.fixture(scope="session")
def devkit(write_tar: Callable, meta_mat: Callable) -> Callable[[Path, Mapping[int, str], Sequence[int]], Path]:
    """Write ILSVRC2012_devkit_t12.tar.gz into a folder: synsets by number, and the number of each image."""

    def write(folder: Path, wnids: Mapping[int, str], truth: Sequence[int]) -> Path:
        top = "ILSVRC2012_devkit_t12"
        content = {
            top: None,
            f"{top}/COPYING": b"terms",
            f"{top}/data": None,
            f"{top}/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{each}\n" for each in truth).encode(),
            f"{top}/data/meta.mat": meta_mat(wnids),
            f"{top}/readme.txt": b"read me",
        }
        return write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", content)

    return write
