"""All records of a run, from however many shards, in whatever order they were written."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from attention_chains.records.encoding import canonical
from attention_chains.records.errors import RecordError
from attention_chains.records.identity import read_identity
from attention_chains.records.shard import read_shards


def read_run(folder: str | Path) -> list[dict[str, Any]]:
    """Read the records of the run in `folder`, sorted by "index", one per sample.

    Reads beside running writers: their samples in flight are not there yet. Does not say whether samples are missing.

    Raises
    ------
    RecordError
        There is no run, a shard is corrupt or of another run, or two records of one sample differ.
    """
    folder = Path(folder)
    shards = read_shards(folder, read_identity(folder).digest)
    return merge(chain.from_iterable(shard.records for shard in shards), where=folder)


def merge(records: Iterable[dict[str, Any]], where: Path) -> list[dict[str, Any]]:
    """Sort records by "index"; equal ones collapse. `where` is named in the error when two differ.

    Raises
    ------
    RecordError
        One index or one id has two different records.
    """
    by_index: dict[int, dict[str, Any]] = {}
    by_id: dict[str, dict[str, Any]] = {}
    for record in records:
        for known, key in ((by_index, record["index"]), (by_id, record["id"])):
            first = known.setdefault(key, record)
            if first is not record and canonical(first) != canonical(record):
                raise _conflict(first, record, where)
    return [by_index[index] for index in sorted(by_index)]


def _conflict(first: dict[str, Any], second: dict[str, Any], where: Path) -> RecordError:
    names = " and ".join(f"{record['id']!r} (index {record['index']})" for record in (first, second))
    return RecordError(f"{where} has different records for {names}: delete one of the two lines from its shard file.")
