"""Linear classifiers that lie beside their network, in a file of their own: found, checked, and read safely."""

from __future__ import annotations

import pickle
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attention_chains.models.assets import BUNDLED, file_digest, first_line
from attention_chains.models.errors import AssetError
from attention_chains.records.files import write_atomically

HASHES = Path("data/head_sha256.txt")  # of published heads, as `sha256sum` writes them; in the working folder

_SECONDS = 20  # for a server to answer

_NOT_A_HEAD = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)  # what a broken file raises


@dataclass(frozen=True)
class LinearHead:
    """Weight (classes, width) and bias (classes,) of a linear classifier, fp32."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, width) of any dtype to logits (B, classes) fp32."""
        return torch.nn.functional.linear(features.float(), self.weight, self.bias)


def load_head(head: str, sha256: str | None, prefix: str, width: int, device: torch.device) -> LinearHead:
    """Read a head, after its hash was checked.

    Parameters
    ----------
    head, sha256
        See `head_file`.
    prefix
        What stands before "weight" and "bias" in the published file's keys.
    width
        Features that the network gives.
    device
        Where the head runs, in fp32.

    Raises
    ------
    AssetError
        The file is not there, is not what its hash says, holds no linear layer or one of another width.
    """
    tensors = _tensors(head, head_file(head, sha256))
    absent = [name for name in ("weight", "bias") if f"{prefix}{name}" not in tensors]
    if absent:
        raise AssetError(f"The head {head} has no '{prefix}{absent[0]}': model.head must be a head of this family.")
    weight, bias = (tensors[f"{prefix}{name}"].to(device, torch.float32) for name in ("weight", "bias"))
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise AssetError(f"The head {head} holds NaN or infinite weights: fetch it again, or set another one.")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise AssetError(
            f"The head {head} has a weight {tuple(weight.shape)} and a bias {tuple(bias.shape)}, which are no linear "
            "layer: set model.head to another file."
        )
    if weight.shape[1] != width:
        raise AssetError(
            f"The head {head} takes {weight.shape[1]} features, but the network gives {width}: set model.head to the "
            "head of this network."
        )
    return LinearHead(weight, bias)


def known_hash(head: str, sha256: str | None) -> str | None:
    """The hash of a head, as given or from the file of hashes, which has lines as `sha256sum` writes them."""
    if sha256 is not None or not is_url(head) or not HASHES.is_file():
        return sha256
    lines = (line.split() for line in HASHES.read_text(encoding="utf-8", errors="replace").splitlines())
    known = {Path(words[-1].lstrip("*")).name: words[0] for words in lines if len(words) == 2}
    return known.get(head.rsplit("/", 1)[-1])


def head_file(head: str, sha256: str | None) -> Path:
    """File of a head: "bundled:dinov1/head.safetensors", a path, or a URL, downloaded once.

    Parameters
    ----------
    head
        Where it is.
    sha256
        Its hash, 64 hexadecimal digits. A URL needs one; a file is checked against it where it is given.

    Raises
    ------
    AssetError
        The file is not there, or not the one of that hash.
    """
    sha256 = known_hash(head, sha256)
    if not is_url(head):
        return _checked(head, _local(head), sha256)
    if unhashed := missing_hash(head, sha256):
        raise AssetError(unhashed)
    path = cached_head(head)
    if path.is_file():
        return _checked(head, path, sha256)
    _download(head, path)
    try:
        return _checked(head, path, sha256)
    except AssetError:
        path.unlink()  # the next run fetches it again
        raise


def pin(head: str) -> str:
    """Take the file behind a URL for the right one, and write its SHA-256 into the file of hashes; return it (hex).

    This is trust on first use, for files whose hash nobody publishes: what the publisher's server gives over HTTPS is
    read without running code, must hold a linear layer, and is what every later run insists on. A known hash stays.

    Raises
    ------
    AssetError
        The URL is not HTTPS, the file cannot be fetched, is no head, or not the one whose hash is known.
    """
    if known_hash(head, None) is not None:
        return file_digest(head_file(head, None))
    if not head.startswith("https://"):
        raise AssetError(f"{head} is no https:// address: nothing else vouches for a file whose hash is not known.")
    path = cached_head(head)
    fetched = not path.is_file()
    if fetched:
        _download(head, path)
    try:
        _refuse_other_files(head, path)
    except AssetError:
        if fetched:
            path.unlink()  # the next run fetches it again
        raise
    digest = file_digest(path)
    try:
        HASHES.parent.mkdir(parents=True, exist_ok=True)
        known = HASHES.read_text(encoding="utf-8") if HASHES.exists() else ""
        separator = "\n" if known and not known.endswith("\n") else ""
        write_atomically(HASHES, f"{known}{separator}{digest}  {path.name}\n")
    except (OSError, ValueError) as error:
        raise AssetError(f"The hash of {head} cannot be kept in {HASHES} ({first_line(error)}).") from error
    return digest


def missing_head(head: str, sha256: str | None) -> list[str]:
    """What stands between this machine and the head: no sentence or one. Nothing is downloaded."""
    sha256 = known_hash(head, sha256)
    if unhashed := missing_hash(head, sha256):
        return [unhashed]
    if is_url(head) and not cached_head(head).is_file():
        return _unreachable(head)
    try:
        head_file(head, sha256)
    except AssetError as error:
        return [str(error)]
    return []


def head_digest(head: str, sha256: str | None) -> str:
    """SHA-256 (hex) of a head, as given or of the file.

    Raises
    ------
    AssetError
        See `head_file`.
    """
    return file_digest(head_file(head, sha256))


def refuse_head(family: str, head: str | None) -> None:
    """Raise AssetError where a head is given to a family that brings its classifier along."""
    if head is not None:
        raise AssetError(f"model.head is for dinov1 and dinov2, not for {family}: leave it and its hash out.")


def is_url(head: str) -> bool:
    """Whether a head is to be fetched."""
    return head.startswith(("https://", "http://"))


def missing_hash(head: str, sha256: str | None) -> str | None:
    """Sentence about a hash that is not known or not whole; None where all is well."""
    if sha256 is None and is_url(head):
        return (
            f"The SHA-256 of {head} is not known here: `make heads` fetches the published heads and keeps their hashes "
            f"in {HASHES}; or write the line of `sha256sum` into it, or set model.head_sha256."
        )
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        return f"model.head_sha256 is '{sha256}': a full SHA-256 has 64 lower-case hexadecimal digits."
    return None


def cached_head(url: str) -> Path:
    """Where the file of a URL is kept: torch's hub folder."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _local(head: str) -> Path:
    path = BUNDLED / head.removeprefix("bundled:") if head.startswith("bundled:") else Path(head)
    if not path.is_file():
        raise AssetError(f"There is no head {path}: set model.head to a file that is there.")
    return path


def _checked(head: str, path: Path, sha256: str | None) -> Path:
    if wrong := missing_hash(head, sha256):
        raise AssetError(wrong)
    if sha256 is not None and (found := file_digest(path)) != sha256:
        raise AssetError(
            f"{path} has the SHA-256 {found}, not the {sha256} of model.head_sha256 or {HASHES}: fetch {head} again, "
            "or correct the hash."
        )
    return path


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, urllib.error.URLError) as error:
        raise AssetError(f"{url} cannot be downloaded ({first_line(error)}): put the file at {path}.") from error


def _refuse_other_files(head: str, path: Path) -> None:
    tensors = _tensors(head, path)
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if value.isfinite().all()}
    weights = {name.removesuffix("weight"): shape for name, shape in shapes.items() if name.endswith("weight")}
    if not any(len(shape) == 2 and shapes.get(f"{layer}bias") == shape[:1] for layer, shape in weights.items()):
        raise AssetError(f"{path}, of {head}, holds no finite linear layer: see what it is before you trust it.")


def _unreachable(url: str) -> list[str]:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS).close()
    except (OSError, urllib.error.URLError, ValueError) as error:
        here = cached_head(url)
        return [f"{url} is not on this machine and cannot be reached ({first_line(error)}): put the file at {here}."]
    return []


def _tensors(head: str, path: Path) -> dict[str, Tensor]:
    read: Callable = load_file if path.suffix == ".safetensors" else _load_pickled
    try:
        tensors = read(path)
    except (OSError, SafetensorError, pickle.UnpicklingError, *_NOT_A_HEAD) as error:
        raise AssetError(
            f"The head {head} cannot be read safely ({first_line(error)}): fetch it again, or set another one."
        ) from error
    return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}


def _load_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors of a .pth file, no code run; DINO's lie under "state_dict", beside the state of the optimiser."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return dict(content.get("state_dict", content)) if isinstance(content, Mapping) else {}
