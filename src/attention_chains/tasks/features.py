"""Features on disk: one float16 row per image, computed once, filled in any order, resumed where it stopped.

Beside `<name>.npy` lie `<name>.rows`, a byte per image that says whether its row is written, and `<name>.json`, which
says what the features are of. Rows are on the disk before they are marked, so a process that is killed leaves no row
that is marked and wrong.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from attention_chains.records import RecordError
from attention_chains.records.encoding import canonical, decode, encode_readable
from attention_chains.records.errors import cannot_write
from attention_chains.records.files import write_atomically

Shape = tuple[int, int, int]
"""Layers, maps of a layer, patches of a map."""

log = logging.getLogger(__name__)


class Features:
    """The features of a data set by one strategy: `open_features` opens them, `make_features` makes them.

    Parameters
    ----------
    values
        (images, layers * maps * patches) float16, memory-mapped.
    written
        (images,) uint8, memory-mapped: 1 where the row is there.
    shape
        (layers, maps of a layer, patches of a map).
    """

    def __init__(self, values: np.memmap, written: np.memmap, shape: Shape) -> None:
        self.shape = shape
        self._values, self._written = values, written

    @property
    def there(self) -> np.ndarray:
        """Rows that are written: ascending indices."""
        return np.flatnonzero(self._written)

    @property
    def complete(self) -> bool:
        """Whether all are."""
        return bool(self._written.all())

    def has(self, index: int) -> bool:
        """Whether row `index` is written."""
        return bool(self._written[index])

    def write(self, rows: Sequence[int], values: np.ndarray) -> None:
        """Keep rows: on the disk when this returns.

        Parameters
        ----------
        rows
            Indices of images; none is fine.
        values
            (len(rows), layers * maps * patches), finite.

        Raises
        ------
        RecordError
            A value is not finite.
        """
        if not len(rows):
            return
        if not np.isfinite(values).all():
            raise RecordError(
                f"The attention of image {rows[0]}, or of one after it, gives features that are not finite: check the "
                f"weights and the precision (model.dtype); nothing of it was kept in {self._values.filename}."
            )
        self._values[rows] = values
        self._values.flush()
        self._written[rows] = 1
        self._written.flush()

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows as an array of their own, (len(rows), layers * maps * patches) float16; each must have been written."""
        return self._values[rows]


def digest(identity: Any) -> str:
    """First 12 digits of the SHA-256 over the canonical JSON of what something is: part of a file's name."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:12]


def open_features(folder: Path, name: str, identity: Mapping[str, Any]) -> Features | None:
    """Open the features `name` in `folder`; None where they are not, or not whole.

    Raises
    ------
    RecordError
        Those there are of something else: their description was changed.
    """
    try:
        content = decode((folder / f"{name}.json").read_bytes())
        shape, images = tuple(content["shape"]), content["images"]
        for mode in ("r", "r+"):  # a file that was cut short cannot be read, but to write it would be made longer
            values = np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode)
            written = np.memmap(folder / f"{name}.rows", dtype=np.uint8, mode=mode, shape=(images,))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used (%s) and is computed anew.", folder / f"{name}.npy", error)
        return None
    if content["identity"] != identity or values.shape != (images, prod(shape)) or values.dtype != np.float16:
        raise RecordError(f"{folder / name}.json does not describe the features beside it: delete both, and run again.")
    return Features(values, written, shape)


def make_features(folder: Path, name: str, identity: Mapping[str, Any], images: int, shape: Shape) -> Features:
    """Make empty features `name` in `folder`, in place of what is there; their space on the disk is taken at once.

    Parameters
    ----------
    folder, name
        Where they lie.
    identity
        What they are of: JSON, everything that decides a number.
    images
        Number of rows.
    shape
        Layers, maps of a layer, patches of a map.

    Raises
    ------
    RecordError
        The folder cannot be written, or the disk has no room.
    """
    path = folder / f"{name}.npy"
    try:
        (folder / f"{name}.json").unlink(missing_ok=True)  # first gone, last there: without it, there are no features
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(images, prod(shape)))
        _take_space(path)
        written = np.memmap(folder / f"{name}.rows", dtype=np.uint8, mode="w+", shape=(images,))
        content = {"identity": identity, "images": images, "shape": shape}
        write_atomically(folder / f"{name}.json", encode_readable(content))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    return Features(values, written, shape)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make `folder` and be its only process in here; another one waits until this one is done, or dead.

    Raises
    ------
    RecordError
        The folder cannot be written, or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # a network file system without locks
            raise cannot_write(folder, error) from error
        yield


def _take_space(path: Path) -> None:
    """Reserve what the file's length promises: a full disk is an error now, and no bus error at a write later."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot promise
                raise
