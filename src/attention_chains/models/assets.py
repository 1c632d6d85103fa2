"""Where weights are, what they hash to, and what is missing to run them, said before anything is run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from attention_chains.chain.memory import free_cuda_memory
from attention_chains.models.errors import AssetError
from attention_chains.models.layouts import PIPELINE, Layout

BUNDLED = Path(__file__).parent / "minis"


def local_folder(source: str, revision: str | None = None, layout: Layout = PIPELINE) -> Path:
    """Folder of a model: a bundled miniature ("bundled:flux"), a folder, or a repository, downloaded once.

    Parameters
    ----------
    source, revision
        The repository and its commit, or where the folder is.
    layout
        The form that the folder must have.

    Raises
    ------
    AssetError
        The folder does not exist, or the repository is not here and cannot be fetched.
    """
    if source.startswith("bundled:"):
        return _existing(BUNDLED / source.removeprefix("bundled:"), layout)
    if not is_repository(source):
        return _existing(Path(source), layout)
    cached = _cached(source, revision, layout)
    if cached is not None:
        return cached
    try:
        return Path(_snapshot(source, revision, layout, local_files_only=False))
    except (OSError, HfHubHTTPError) as error:
        raise AssetError(f"{source} cannot be downloaded: {first_line(error)}") from error


def weights_digest(source: str, revision: str | None = None, layout: Layout = PIPELINE) -> str:
    """SHA-256 (hex) over the names and SHA-256 of all files that a model's parts are made of, without loading them.

    Configurations and tokenizers count: the same weights with another number of heads are another model. What lies
    beside the parts (a second copy of the weights, a training log) does not.
    """
    folder = local_folder(source, revision, layout)
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in layout.files(folder)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def missing(
    source: str,
    revision: str | None,
    device: torch.device,
    memory_gb: float | None,
    disk_gb: float | None,
    layout: Layout = PIPELINE,
) -> list[str]:
    """Everything that stands between this machine and the model, one sentence each; empty when nothing does.

    Parameters
    ----------
    source, revision, layout
        See `local_folder`.
    device
        Where the model is to run.
    memory_gb, disk_gb
        What it needs there, and what its files take; None where nobody said.
    """
    return [*_missing_files(source, revision, disk_gb, layout), *_missing_memory(source, device, memory_gb)]


def _missing_files(source: str, revision: str | None, disk_gb: float | None, layout: Layout) -> list[str]:
    if source.startswith("bundled:") or not is_repository(source):
        try:
            local_folder(source, layout=layout)
        except AssetError as error:
            return [str(error)]
        return []
    if _cached(source, revision, layout) is not None:
        return []
    return [*_missing_access(source), *_missing_disk(source, disk_gb)]


def _missing_access(source: str) -> list[str]:
    page = f"{constants.ENDPOINT}/{source}"
    log_in = f"accept the licence on {page}, then log in with `hf auth login` or set HF_TOKEN"
    try:
        HfApi().auth_check(source)
    except GatedRepoError:
        if get_token() is None:
            return [f"{source} is gated and there is no Hugging Face token: {log_in}."]
        return [f"{source} is gated and this account has not accepted its licence: do so on {page}."]
    except RepositoryNotFoundError:
        return [f"{source} does not exist, or this account may not see it: check model.source and the token."]
    except Exception as error:  # no network, a proxy, a server's fault: each library has its own type for it
        unreachable = f"{source} is not on this machine and its server cannot be reached ({first_line(error)})."
        token = [] if get_token() else [f"There is no Hugging Face token either: if {source} is gated, {log_in}."]
        return [unreachable, *token]
    return []


def _missing_disk(source: str, disk_gb: float | None) -> list[str]:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    if disk_gb is None or free >= disk_gb:
        return []
    return [f"{source} takes {disk_gb:.0f} GB and {there} has {free:.0f} GB free: make room, or set HF_HOME elsewhere."]


def _missing_memory(source: str, device: torch.device, memory_gb: float | None) -> list[str]:
    free = free_cuda_memory(device) if device.type == "cuda" else psutil.virtual_memory().available
    if memory_gb is None or free / 1e9 >= memory_gb:
        return []
    where = f"the GPU {device}" if device.type == "cuda" else "this machine"
    return [f"{source} needs {memory_gb:.0f} GB of memory and {where} has {free / 1e9:.0f} GB free: use a larger one."]


def is_repository(source: str) -> bool:
    """Whether `source` is "owner/name" and no folder."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not Path(source).exists()


def _existing(folder: Path, layout: Layout) -> Path:
    if not (folder / layout.index).is_file():
        raise AssetError(f"{folder} holds no model (no {layout.index}): set model.source to a folder that does.")
    if part := layout.unfinished(folder):
        raise AssetError(f"{folder} is not whole: {part} or a file of it is not there; copy or download it again.")
    return folder


def _snapshot(source: str, revision: str | None, layout: Layout, local_files_only: bool) -> str:
    return snapshot_download(
        source,
        revision=revision,
        allow_patterns=list(layout.kept),
        ignore_patterns=list(layout.left),
        local_files_only=local_files_only,
    )


def _cached(source: str, revision: str | None, layout: Layout) -> Path | None:
    try:
        folder = Path(_snapshot(source, revision, layout, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    there = (folder / layout.index).is_file() and layout.unfinished(folder) is None
    return folder if there else None  # a download may have stopped half-way


def file_digest(path: Path) -> str:
    """SHA-256 of a file; the hub's cache names large files by theirs, so that they need not be read."""
    name = Path(os.path.realpath(path)).name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """What an error of another library says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_complaint(error: Exception) -> str:
    """What `load_state_dict` says first of the weights: its first line only names the network."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return (lines[1] if len(lines) > 1 else first_line(error)).rstrip(".:; ")
