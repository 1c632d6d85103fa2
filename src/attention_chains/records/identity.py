"""What a run is: the same identity is the same run, whenever and wherever it is started."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attention_chains.records.encoding import canonical, decode, encode_readable, plain
from attention_chains.records.errors import RecordError, cannot_read, cannot_write
from attention_chains.records.files import write_atomically

FILE = "identity.json"


@dataclass(frozen=True)
class RunIdentity:
    """Everything that decides the numbers of a run, and nothing else (no time, host, output folder or shard).

    Parameters
    ----------
    config : Mapping
        The resolved config, without the keys that change no number. Kept as a plain copy.
    protocol : str
        Id of the evaluation protocol.
    weights : str
        Hash of the model's weights.
    data : str
        Fingerprint of the data set.

    Raises
    ------
    RecordError
        A config that JSON cannot hold, with the field.
    """

    config: Mapping[str, Any]
    protocol: str
    weights: str
    data: str

    def __post_init__(self) -> None:
        """Take a plain copy of the config, which no later change of the caller's reaches."""
        object.__setattr__(self, "config", plain(self.config, "config"))

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the four parts, 64 hex digits."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()

    @property
    def short(self) -> str:
        """First 12 digits of the digest, for the name of the folder."""
        return self.digest[:12]


def run_folder(out: str | Path, task: str, model: str, identity: RunIdentity) -> Path:
    """Where the run is kept: `<out>/runs/<task>-<model>-<short digest>`."""
    return Path(out) / "runs" / f"{task}-{model}-{identity.short}"


def claim_folder(folder: Path, identity: RunIdentity) -> None:
    """Make `folder` and its identity file, or check that it already is this run's.

    Raises
    ------
    RecordError
        The folder holds another run, or cannot be written.
    """
    try:
        if (folder / FILE).exists():
            return _check_same(folder, read_identity(folder), identity)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, encode_readable({"digest": identity.digest, **asdict(identity)}))
    except OSError as error:
        raise cannot_write(folder, error) from error


def read_identity(folder: str | Path) -> RunIdentity:
    """Identity of the run in `folder`.

    Raises
    ------
    RecordError
        There is none, or its file was changed since it was written.
    """
    path = Path(folder) / FILE
    try:
        content = decode(path.read_bytes())
        digest = content.pop("digest")
        identity = RunIdentity(**content)
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _changed(path) from error
    if identity.digest != digest:
        raise _changed(path)
    return identity


def _check_same(folder: Path, found: RunIdentity, wanted: RunIdentity) -> None:
    parts = [part for part, value in asdict(wanted).items() if canonical(getattr(found, part)) != canonical(value)]
    if parts:
        raise RecordError(
            f"{folder} holds another run (other {', '.join(parts)}): choose another folder (out=<folder>) or delete it."
        )


def _changed(path: Path) -> RecordError:
    return RecordError(f"{path} was changed after it was written: restore it, or run in another folder (out=<folder>).")
