"""Writes that survive a crash: all of it on the disk, or none of it."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from pathlib import Path

from attention_chains.records.errors import cannot_write


def open_to_append(path: Path) -> io.FileIO:
    """Open or make `path`, unbuffered; RecordError where that is not possible."""
    try:
        return io.FileIO(path, "a+")
    except OSError as error:
        raise cannot_write(path, error) from error


def append_durably(file: io.FileIO, data: bytes) -> None:
    """Append `data` to an unbuffered file and sync it; whatever interrupts, the file keeps all of it or none."""
    end = file.seek(0, os.SEEK_END)
    try:
        _write_all(file, data)
        os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file under another name, sync it, and only then give it its own."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with io.FileIO(draft, "x") as file:
            append_durably(file, text.encode())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems sync no folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]  # a disk that fills up takes a part first
