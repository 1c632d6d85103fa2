"""The writer of one shard: a record is on the disk when `append` returns."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attention_chains.records.encoding import encode, plain
from attention_chains.records.errors import RecordError, cannot_write
from attention_chains.records.files import append_durably, open_to_append, sync_folder
from attention_chains.records.identity import RunIdentity, claim_folder
from attention_chains.records.lock import locked
from attention_chains.records.shard import WHOLE_RUN, Shard, read_shard, read_shards

log = logging.getLogger(__name__)


class ShardStore:
    """An open shard; made by `open_shard`.

    Attributes
    ----------
    finished : set of str
        Ids of the samples that have a record, in this shard or, when the store was opened, in any other of the run.
    """

    def __init__(self, file: io.FileIO, path: Path, shard: Shard, finished: set[str]) -> None:
        self.finished = finished
        self._file = file
        self._path = path
        self._shard = shard

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a finished sample: the whole line is synced to the disk, or the shard stays as it was.

        Parameters
        ----------
        record : Mapping
            "id" (str), "index" (int >= 0, of this shard) and whatever JSON can hold exactly.

        Raises
        ------
        RecordError
            The record cannot be kept, or the disk did not take it; then the store is closed.
        """
        record = plain(record, f"Record {record.get('id')!r}")
        self._check(record)
        self._write(record)
        self.finished.add(record["id"])

    def _check(self, record: dict[str, Any]) -> None:
        sample, index = record.get("id"), record.get("index")
        if not isinstance(sample, str) or type(index) is not int or index < 0:
            raise RecordError(f"A record has id {sample!r} and index {index!r}: give a string and an integer from 0.")
        if not self._shard.owns(index):
            raise RecordError(f"Record {sample!r} with index {index} is not of {self._shard.name}: skip its sample.")
        if sample in self.finished:
            raise RecordError(f"Record {sample!r} is in the run already: skip the samples that are in store.finished.")

    def _write(self, record: dict[str, Any]) -> None:
        if self._file.closed:
            raise RecordError(f"{self._path} is closed: open the shard again to append to it.")
        try:
            append_durably(self._file, _line(record))
        except OSError as error:
            self._file.close()
            raise cannot_write(self._path, error) from error


@contextmanager
def open_shard(folder: str | Path, identity: RunIdentity, shard: Shard = WHOLE_RUN) -> Iterator[ShardStore]:
    """Open one shard of the run in `folder` for writing; the folder is made, or resumed.

    A last line that a killed process left unfinished is dropped with a warning. Samples that another shard has finished
    count as finished, so that a run may be resumed with another number of shards once the earlier processes are gone.

    Raises
    ------
    RecordError
        The folder cannot be written or is of another run, another process has the shard, or a shard file is corrupt.
    """
    folder = Path(folder)
    claim_folder(folder, identity)
    path = folder / f"{shard.name}.jsonl"
    with locked(path.with_suffix(".lock")), _resumed(path, identity.digest) as file:
        finished = {record["id"] for content in read_shards(folder, identity.digest) for record in content.records}
        yield ShardStore(file, path, shard, finished)


@contextmanager
def _resumed(path: Path, digest: str) -> Iterator[io.FileIO]:
    """Open the shard file, ready to append: a torn end is cut off and the header is there."""
    with open_to_append(path) as file:
        _mend(file, path, digest)
        yield file


def _mend(file: io.FileIO, path: Path, digest: str) -> None:
    whole = read_shard(path, digest).size
    try:
        if file.seek(0, io.SEEK_END) > whole:
            log.warning("%s: the last line is unfinished and dropped; its sample is computed again.", path)
            file.truncate(whole)
        if whole == 0:
            append_durably(file, _line({"identity": digest}))
            sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def _line(value: dict[str, Any]) -> bytes:
    return f"{encode(value)}\n".encode()
