"""ImageNet-Segmentation: reads `gtsegs_ijcv.mat` as it is published (MATLAB v7.3, that is HDF5; protocol 1.1)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import string
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from attention_chains.data.errors import DataError
from attention_chains.data.sample import Sample
from attention_chains.data.words import WNID, choose_words

URL = "http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat"
IMAGES = 4276
_CELLS = ("/value/img", "/value/gt", "/value/id")  # each (N, 1) of object references
_UNREADABLE = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)  # what h5py may raise
_log = logging.getLogger(__name__)


class GtSegs:
    """The images of ImageNet-Segmentation with their masks and class words.

    Ids and class words are checked at once, images are read when asked for. The data set may be pickled, and
    used after a fork: every process opens the file for itself.

    Parameters
    ----------
    path
        The file `gtsegs_ijcv.mat`.
    words
        WordNet id to class word, see `data.words.read_words`.
    prompt
        Template over `{word}`.

    Raises
    ------
    DataError
        When the file is missing, is not HDF5, has another layout, or holds a category without a word; or when the
        prompt is no template over `{word}`.
    """

    def __init__(self, path: str | Path, words: Mapping[str, str], prompt: str = "a {word}") -> None:
        self.path, self.prompt = Path(path), _checked_prompt(prompt)
        self._opened: tuple[int, h5py.File] | None = None
        _check_layout(self._file)
        names = self._read_names()
        self.ids = _distinct(names)
        self._wnids = [name.split("_")[0] for name in names]
        self.words = choose_words(self._wnids, words)
        if len(self) != IMAGES:
            _log.warning("%s holds %d images; the published file holds %d.", self.path, len(self), IMAGES)

    def __len__(self) -> int:
        """Count the images, without reading any."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises
        ------
        DataError
            When the file does not give its image or mask, or they do not fit together; the message names the
            sample.
        """
        index = range(len(self))[index]  # IndexError beyond the end
        try:
            return self._read_sample(index)
        except DataError as error:
            raise DataError(f"{self.path}, image {index}: {error}") from error
        except _UNREADABLE as error:
            place = f"{self.path}, image {index}: sample '{self.ids[index]}'"
            raise DataError(f"{place} cannot be read ({error}); download the file again from {URL}.") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file out of a pickle."""
        return {**self.__dict__, "_opened": None}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the file's content, the class words in use and the prompt."""
        parts = {"file": _file_digest(self.path), "words": self.words, "prompt": self.prompt}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def _file(self) -> h5py.File:
        """The file, opened by this very process: HDF5 must not share a handle across a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _open(self.path)
        return self._opened[1]

    def _read_names(self) -> list[str]:
        try:
            return [_read_name(self._file[reference]) for reference in self._file["/value/id"][:, 0]]
        except _UNREADABLE as error:
            raise DataError(f"{self.path}: its ids cannot be read ({error}); download it again from {URL}.") from error

    def _read_sample(self, index: int) -> Sample:
        wnid = self._wnids[index]
        word = self.words[wnid]
        prompt = self.prompt.format(word=word)
        meta = {"index": index, "wnid": wnid}
        return Sample(self.ids[index], self._read_image(index), self._read_mask(index), word, prompt, meta)

    def _read_image(self, index: int) -> np.ndarray:
        stored = self._file[self._file["/value/img"][index, 0]][()]  # (3, W, H), MATLAB's order
        return np.ascontiguousarray(stored.transpose(2, 1, 0))

    def _read_mask(self, index: int) -> np.ndarray:
        cell = self._file[self._file["/value/gt"][index, 0]]  # a cell array of one reference
        stored = self._file[cell[0, 0]][()]  # (W, H)
        return np.ascontiguousarray(stored.transpose(1, 0) != 0)


def _checked_prompt(prompt: str) -> str:
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(prompt)} - {None}
    except ValueError:  # unbalanced braces
        fields = set()
    if fields != {"word"}:
        raise DataError(f"data.prompt '{prompt}' is no template over {{word}}: write it as 'a {{word}}'.")
    return prompt


def check_file(path: str | Path) -> None:
    """Check that there is a file.

    Raises
    ------
    DataError
        There is none; says where to get it.
    """
    if not Path(path).is_file():
        raise DataError(f"ImageNet-Segmentation is not at {path}: download it from {URL} and set data.path.")


def _open(path: Path) -> h5py.File:
    check_file(path)
    try:
        return h5py.File(path, "r", locking=False)  # many readers, no writer; cluster file systems may refuse locks
    except OSError as error:
        raise DataError(f"{path} is no complete HDF5 file ({error}): download it again from {URL}.") from error


def _check_layout(file: h5py.File) -> None:
    """Check that the cell arrays are there, hold references, and are equally long."""
    cells = [file.get(name) for name in _CELLS]
    shapes = {cell.shape for cell in cells if _holds_references(cell)}
    if not all(map(_holds_references, cells)) or len(shapes) != 1 or 0 in shapes.pop():
        raise DataError(
            f"{file.filename} is HDF5, but not gtsegs_ijcv.mat, where {', '.join(_CELLS)} are (N, 1) references: "
            f"get it from {URL}."
        )


def _holds_references(cell: h5py.Dataset | h5py.Group | None) -> bool:
    """Whether `cell` is an (N, 1) array of object references, MATLAB's cell array."""
    is_column = isinstance(cell, h5py.Dataset) and cell.ndim == 2 and cell.shape[1] == 1
    return is_column and h5py.check_ref_dtype(cell.dtype) is h5py.Reference


def _read_name(characters: h5py.Dataset) -> str:
    """Decode MATLAB's UTF-16 codes, e.g. to "n02123045_1234" (WordNet id, number)."""
    name = np.asarray(characters[()], dtype="<u2").tobytes().decode("utf-16-le").strip()
    if not WNID.match(name):
        raise ValueError(f"'{name}' does not begin with a WordNet id")
    return name


def _distinct(names: list[str]) -> list[str]:
    """Append the index to names that occur more than once: an id must name one sample."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name}-{index}" for index, name in enumerate(names)]


def _file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; kept beside it for as long as its size and modification time stay the same."""
    status = path.stat()
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    sidecar = path.with_name(f"{path.name}.sha256.json")
    known = _read_sidecar(sidecar)
    if all(known.get(key) == value for key, value in stamp.items()) and "sha256" in known:
        return known["sha256"]
    _log.info("Hashing %s (%.1f GB), once.", path, status.st_size / 1e9)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _write_sidecar(sidecar, {**stamp, "sha256": digest})
    return digest


def _read_sidecar(sidecar: Path) -> dict[str, Any]:
    try:
        known = json.loads(sidecar.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_sidecar(sidecar: Path, content: Mapping[str, Any]) -> None:
    draft = sidecar.with_name(f"{sidecar.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a folder that cannot be written only costs the next run its time
        draft.write_text(json.dumps(content))
        draft.replace(sidecar)
