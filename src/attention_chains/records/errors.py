"""What the store says when it cannot keep or give back a record."""

from __future__ import annotations

import errno
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RecordError(RuntimeError):
    """A record, a shard or a run folder that cannot be written, read or trusted."""


def cannot_write(path: Path, error: OSError) -> RecordError:
    """Sentence for a failed write to `path`: what failed, where, what to do."""
    if error.errno in FULL:
        advice = "make room and run the same command again; the finished samples are kept"
    else:
        advice = "choose a results folder that can be written (out=<folder>)"
    return RecordError(f"Cannot write {path} ({error.strerror}): {advice}.")


def cannot_read(path: Path, error: OSError) -> RecordError:
    """Sentence for a failed read of `path`."""
    return RecordError(f"Cannot read {path} ({error.strerror}): check the path and its permissions.")
