"""One writer per shard, by a lock that dies with its process."""

from __future__ import annotations

import fcntl
import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attention_chains.records.encoding import decode, encode
from attention_chains.records.errors import RecordError, cannot_write
from attention_chains.records.files import open_to_append

_held: set[io.FileIO] = set()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`. The kernel frees it when the process ends, however it ends.

    Raises
    ------
    RecordError
        Another process holds it (named by pid and host), or it cannot be written.
    """
    file = open_to_append(path)
    try:
        _take(file, path)
        _held.add(file)
        yield
    finally:
        _held.discard(file)
        file.close()


def _take(file: io.FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(encode({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    except BlockingIOError as error:
        raise RecordError(
            f"{path.with_suffix('.jsonl')} is being written by {_holder(file)}: "
            "wait until it is done, or stop it, and run the same command again."
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error


def _holder(file: io.FileIO) -> str:
    file.seek(0)
    try:
        holder = decode(file.read())
    except ValueError:  # taken this instant: its name is not written yet
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"


def _release_in_child() -> None:
    """Close what a forked child (a data loader's worker) got, or it would hold the lock after its parent died."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_release_in_child)
