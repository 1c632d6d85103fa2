"""Images that are found by name, in a folder or in a zip archive; nothing is unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from attention_chains.data.errors import DataError

_FORMATS = ("JPEG", "PNG")  # whatever a name says, no other of Pillow's decoders is given a downloaded file
# what Pillow may raise for a file that is no image, or half of one
_NO_IMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, Image.DecompressionBombError)
_NO_MEMBER = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


class ImageFiles:
    """Encoded images by name, read when asked for. May be pickled, and used after a fork.

    Parameters
    ----------
    path
        A folder of images; a folder that holds such a folder, named `part`; or a zip archive with them in a folder of
        that name.
    part
        Name of that folder, e.g. "val2017".
    suffix
        End of the files' names, e.g. ".jpg".
    hint
        Where to get them and which key names them: the end of a sentence.

    Raises
    ------
    DataError
        There is no such image at `path`, or it is no archive.
    """

    def __init__(self, path: str | Path, part: str, suffix: str, hint: str) -> None:
        self.path, self.suffix, self._part, self._hint = Path(path), suffix, part, hint
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        if self.path.is_dir() and (self.path / part).is_dir():
            self.path /= part
        if not (self._names if self.path.is_dir() else self._members):
            raise DataError(f"{self.path} holds no {suffix} image{self._of_part()}: {hint}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open archive out of a pickle."""
        return {**self.__dict__, "_opened": None}

    def place(self, name: str) -> str:
        """Where an image is, for a message."""
        file = f"{name}{self.suffix}"
        return f"{self.path}, {file}" if self.path.is_file() else str(self.path / file)

    def read(self, name: str) -> bytes:
        """The encoded image.

        Raises
        ------
        DataError
            It is not there, or cannot be read.
        """
        try:
            if self.path.is_file():
                return self._archive.read(self._members[name])
            return (self.path / f"{name}{self.suffix}").read_bytes()
        except (KeyError, FileNotFoundError) as error:
            raise DataError(f"{self.place(name)} is listed but not there: {self._hint}") from error
        except _NO_MEMBER as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.place(name)} cannot be read ({reason}): {self._hint}") from error

    def pixels(self, name: str, mode: str | None = None) -> np.ndarray:
        """The decoded image: (H, W, channels), or (H, W) where there is one channel.

        Parameters
        ----------
        name
            Which one.
        mode
            What Pillow is to convert it to, such as "RGB"; None leaves the stored numbers as they are.

        Raises
        ------
        DataError
            It is not there, or no whole JPEG or PNG.
        """
        content = self.read(name)
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return np.array(image.convert(mode) if mode else image)
        except _NO_IMAGE as error:
            raise DataError(f"{self.place(name)} is no whole JPEG or PNG: {self._hint}") from error

    def digest(self, names: Iterable[str]) -> str:
        """SHA-256 (hex) over the names and contents of images; one that cannot be read counts as nothing."""
        digest = hashlib.sha256()
        for name in names:
            digest.update(json.dumps([name, self._content_digest(name)]).encode())
        return digest.hexdigest()

    def _content_digest(self, name: str) -> str | None:
        try:
            return hashlib.sha256(self.read(name)).hexdigest()
        except DataError:  # told, with all others, when the samples are checked
            return None

    @cached_property
    def _names(self) -> bool:
        """Whether the folder holds an image at all."""
        return any(each.suffix == self.suffix for each in self.path.iterdir())

    @cached_property
    def _members(self) -> dict[str, str]:
        """Member of the archive by the image's name."""
        members = map(PurePosixPath, self._archive.namelist())
        return {
            each.stem: str(each) for each in members if each.suffix == self.suffix and each.parent.name == self._part
        }

    @property
    def _archive(self) -> zipfile.ZipFile:
        """The archive, opened by this very process: a handle must not be shared across a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self._open()
        return self._opened[1]

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except FileNotFoundError as error:
            raise DataError(f"There is neither folder nor archive {self.path}: {self._hint}") from error
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path} is no whole zip archive ({error}): {self._hint}") from error

    def _of_part(self) -> str:
        return f" in a folder {self._part}" if self.path.is_file() else ""
