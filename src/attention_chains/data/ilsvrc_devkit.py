"""The development kit of ILSVRC 2012: which synset each validation image shows, read from the archive as published."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path

from scipy.io.matlab import MatReadError, loadmat

from attention_chains.data.errors import DataError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_FOLDER = "ILSVRC2012_devkit_t12/data"
_META = f"{_FOLDER}/meta.mat"  # a struct array `synsets`, one entry a synset: ILSVRC2012_ID, WNID, ...
_TRUTH = f"{_FOLDER}/ILSVRC2012_validation_ground_truth.txt"  # an ILSVRC2012_ID a line, in the order of the images
_BROKEN = (
    tarfile.TarError,
    MatReadError,
    OSError,
    EOFError,
    zlib.error,
    LookupError,
    ValueError,
    TypeError,
    NotImplementedError,
)


def read_synsets(devkit: Path) -> list[str]:
    """WordNet id of every validation image, in the order of the images' names.

    Parameters
    ----------
    devkit
        The file `ILSVRC2012_devkit_t12.tar.gz`.

    Raises
    ------
    DataError
        When it is broken, lacks one of the two files, or its parts do not fit together.
    """
    try:
        meta, truth = _read_members(devkit)
        names = _synsets_by_number(meta)
        return [names[int(line)] for line in truth.decode("ascii").split()]
    except _BROKEN as error:
        raise DataError(
            f"{devkit} is not the development kit of ILSVRC 2012 as published ({type(error).__name__}: {error}): get "
            f"{DEVKIT} again from https://image-net.org/download-images."
        ) from error


def _read_members(devkit: Path) -> tuple[bytes, bytes]:
    """Content of the two files; the whole archive is unpacked in memory (a few MB), so that its checksum is tested."""
    content = {}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(devkit.read_bytes())), mode="r:") as tar:
        for member in tar:
            if member.isreg() and member.name in (_META, _TRUTH):
                content[member.name] = tar.extractfile(member).read()
    return content[_META], content[_TRUTH]


def _synsets_by_number(meta: bytes) -> dict[int, str]:
    """ILSVRC2012_ID to WordNet id, of the 1000 classes and of what lies above them."""
    table = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    return {int(number): str(wnid) for number, wnid in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}
