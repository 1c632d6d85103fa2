"""One file of a run: its name, its share of the samples, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_chains.records.encoding import decode
from attention_chains.records.errors import RecordError, cannot_read


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`: the samples whose index leaves the remainder `index` when divided by `count`.

    Raises
    ------
    RecordError
        `index` is not in [0, count).
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.index < self.count:
            raise RecordError(f"Shard {self.index} of {self.count} does not exist: shards are numbered from 0.")

    def owns(self, sample: int) -> bool:
        """Whether the sample with this index is of this shard."""
        return sample % self.count == self.index

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return f"shard-{self.index:05d}-of-{self.count:05d}"


WHOLE_RUN = Shard()


@dataclass(frozen=True)
class ShardContent:
    """What a shard file holds: the digest of its run (None in an empty file), its records, the bytes they take."""

    digest: str | None
    records: list[dict[str, Any]]
    size: int


def read_shards(folder: Path, digest: str) -> list[ShardContent]:
    """Content of every shard file in `folder`; each must be of the run with this digest."""
    return [read_shard(path, digest) for path in sorted(folder.glob("shard-*-of-*.jsonl"))]


def read_shard(path: Path, digest: str) -> ShardContent:
    """Content of one shard file, up to the last whole line.

    Every line is synced before the next one is begun, so that only the last can be unfinished.

    Raises
    ------
    RecordError
        A line that is not the last is corrupt, or the shard is of another run.
    """
    try:
        content = _content(path, path.read_bytes())
    except OSError as error:
        raise cannot_read(path, error) from error
    if content.digest not in (None, digest):
        raise RecordError(f"{path} is a shard of another run: move it out of {path.parent} and run again.")
    return content


def _content(path: Path, data: bytes) -> ShardContent:
    *lines, tail = data.split(b"\n")
    parsed = [_parse(line, _is_record if number else _is_header) for number, line in enumerate(lines)]
    size = len(data) - len(tail)
    if parsed and parsed[-1] is None and not tail:  # power loss can keep the end of a line and lose its middle
        size -= len(lines[-1]) + 1
        parsed.pop()
    if None in parsed:
        raise _corrupt(path, parsed.index(None) + 1)
    return ShardContent(parsed[0]["identity"] if parsed else None, parsed[1:], size)


def _parse(line: bytes, is_valid: Callable[[Any], bool]) -> dict[str, Any] | None:
    try:
        value = decode(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and is_valid(value) else None


def _is_header(value: dict[str, Any]) -> bool:
    return isinstance(value.get("identity"), str)


def _is_record(value: dict[str, Any]) -> bool:
    return isinstance(value.get("id"), str) and type(value.get("index")) is int


def _corrupt(path: Path, number: int) -> RecordError:
    rotten = "that line" if number > 1 else "the file"  # without its header no line of it can be trusted
    return RecordError(
        f"{path}, line {number}, is corrupt: restore the file from a copy, "
        f"or delete {rotten} and run the same command again to compute what is lost."
    )
