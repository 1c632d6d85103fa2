"""LAION-Aesthetics as img2dataset stores it: webdataset tars of an image and a json each, with the table's columns.

A link that was dead when img2dataset came by leaves no image: it is counted in `<shard>_stats.json` beside the tar, and
by some writers also in the tar, as a json whose status is no success. Source: paper, A.2; protocol 2.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_chains.data.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp")
DEAD = "dead links"


@dataclass(frozen=True)
class Filters:
    """What an image must exceed, strictly; None for no limit.

    Attributes
    ----------
    score
        Aesthetic score, in the column AESTHETIC_SCORE.
    width, height
        Of the image on the web, pixels, in the columns WIDTH and HEIGHT.
    """

    score: float | None = None
    width: int | None = None
    height: int | None = None

    def failed(self, columns: Mapping[str, Any], where: str) -> str | None:
        """The first filter that an image fails, in words; None where it passes them all.

        Raises
        ------
        DataError
            A column that is needed is not there, or is no number.
        """
        limits = (("AESTHETIC_SCORE", self.score), ("WIDTH", self.width), ("HEIGHT", self.height))
        for column, limit in limits:
            if limit is not None and not _numeric(columns, column, where) > limit:
                return f"with {column} of {limit:g} or less"
        return None


@dataclass(frozen=True)
class TarredImage:
    """Where an encoded image lies: a stretch of a tar; `digest` is SHA-256 (hex) over what its json says of it."""

    id: str
    tar: Path
    offset: int
    size: int
    digest: str

    def read(self) -> bytes:
        """The encoded image."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def index_tars(folder: Path, filters: Filters) -> tuple[list[TarredImage], Counter[str]]:
    """Find the images that pass the filters, in the order of their ids, and count the others by the reason.

    No image is read. The digest of one is over its json, in which img2dataset keeps the SHA-256 of the image.

    Raises
    ------
    DataError
        There is no tar, or one is broken, or its json lacks what is filtered by.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder} holds no tar: set data.reference_path to the folder that img2dataset wrote.")
    kept: list[TarredImage] = []
    skipped: Counter[str] = Counter()
    for tar in tars:
        of_tar, left_out = _index(tar, filters)
        kept += of_tar
        skipped += left_out
    return kept, skipped


def _index(tar: Path, filters: Filters) -> tuple[list[TarredImage], Counter[str]]:
    kept, skipped = [], Counter()
    for key, members in sorted(_samples(tar).items()):
        name, where = f"{tar.stem}/{key}", f"{tar}, sample {key}"
        said = _read_json(tar, members.get("json"), where)
        image = next((members[suffix] for suffix in IMAGES if suffix in members), None)
        why = DEAD if image is None or said.get("status", "success") != "success" else filters.failed(said, where)
        if why is not None:
            skipped[why] += 1
            continue
        digest = hashlib.sha256(json.dumps([said, image[1]], sort_keys=True).encode()).hexdigest()
        kept.append(TarredImage(name, tar, *image, digest))
    skipped[DEAD] = max(skipped[DEAD], _failures(tar))
    return kept, skipped


def _samples(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Offset and size of every file of a tar, by the sample's key and the file's suffix."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in _members(tar):
        folder, _, base = name.removeprefix("./").rpartition("/")
        stem, _, suffix = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        found.setdefault(key, {})[suffix.lower()] = (offset, size)
    return found


def _members(tar: Path) -> Iterator[tuple[str, int, int]]:
    whole = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isfile():
                    if member.offset_data + member.size > whole:
                        raise tarfile.ReadError("it ends too early")
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{tar} is no whole tar ({error}): download this shard again.") from error


def _read_json(tar: Path, place: tuple[int, int] | None, where: str) -> dict[str, Any]:
    if place is None:
        return {}
    with tar.open("rb") as file:
        file.seek(place[0])
        raw = file.read(place[1])
    try:
        said = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{where}: its json cannot be read; download this shard again.") from error
    return said if isinstance(said, dict) else {}


def _failures(tar: Path) -> int:
    """Links of a shard that gave no image, by img2dataset's own count."""
    path = tar.with_name(f"{tar.stem}_stats.json")
    if not path.exists():
        return 0
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
        return int(stats["count"]) - int(stats["successes"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} is not what img2dataset writes: remove it, or download this shard again.") from error


def _numeric(columns: Mapping[str, Any], column: str, where: str) -> float:
    value = columns.get(column)
    try:
        return float(value)  # img2dataset keeps some columns as text
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where} has {value!r} as {column}: run img2dataset with save_additional_columns=[AESTHETIC_SCORE,WIDTH,"
            "HEIGHT], or set the filter to null."
        ) from error
