"""The forms a model's folder takes: which files it is made of, and which of them must be there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

_ONE_OF = ["config.json", "scheduler_config.json", "tokenizer.json", "vocab.json", "spiece.model"]  # in every part


@dataclass(frozen=True)
class Layout:
    """A form of folder.

    Attributes
    ----------
    index : str
        The file by which it is known.
    kept : tuple of str
        Patterns of what is taken of a repository: no pickle, no second copy of the weights.
    left : tuple of str
        Patterns of what is left there all the same, and is no part of the model where a folder has it.
    parts : tuple of str
        Patterns of the files that decide what the model computes, and so its hash.
    unfinished : callable
        A file or part that is not wholly there, or None.
    """

    index: str
    kept: tuple[str, ...]
    left: tuple[str, ...]
    parts: tuple[str, ...]
    unfinished: Callable[[Path], str | None]

    def files(self, folder: Path) -> list[Path]:
        """Files of a model of this form, sorted."""
        files = {file for pattern in self.parts for file in folder.glob(pattern)}
        return sorted(file for file in files if not _matches(file.relative_to(folder).as_posix(), self.left))


def _unfinished_part(folder: Path) -> str | None:
    """A part of a pipeline that is not wholly there: a tokenizer without its files would load, as another one."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except ValueError:
        return "model_index.json"
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None]
    return next((part for part in parts if not _whole(folder / part)), None)


def _unfinished_stable_diffusion(folder: Path) -> str | None:
    """The same of the parts that generate; the index also lists those that judge the images."""
    try:
        json.loads((folder / "model_index.json").read_text())
    except ValueError:
        return "model_index.json"
    whole = partial(_whole, left=_OTHER_WEIGHTS)
    return next((part for part in _STABLE_DIFFUSION_PARTS if not whole(folder / part)), None)


def _whole(part: Path, left: tuple[str, ...] = ()) -> bool:
    if not any((part / name).is_file() for name in _ONE_OF) or _half_a_vocabulary(part):
        return False
    shards = {shard for index in part.glob("*.safetensors.index.json") for shard in _shards(index)}
    weights = [file for file in part.glob("*.safetensors") if not _matches(file.name, left)]
    is_model = (part / "config.json").is_file()
    return all((part / shard).is_file() for shard in shards) and (not is_model or bool(weights))


def _half_a_vocabulary(part: Path) -> bool:
    """Whether a byte-pair tokenizer has its pieces without its merges, which would load, as one that spells."""
    absent = not (part / "merges.txt").is_file() and not (part / "tokenizer.json").is_file()
    return (part / "vocab.json").is_file() and absent


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shards(index: Path) -> Iterable[str]:
    return set(json.loads(index.read_text())["weight_map"].values())


def _first_absent(*names: str) -> Callable[[Path], str | None]:
    return lambda folder: next((name for name in names if not (folder / name).is_file()), None)


_PIPELINE_KINDS = ("*.json", "*.safetensors", "*.txt", "*.model")
_STABLE_DIFFUSION_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
_STABLE_DIFFUSION_FILES = tuple(f"{part}/{kind}" for part in _STABLE_DIFFUSION_PARTS for kind in _PIPELINE_KINDS)
_OTHER_WEIGHTS = ("*.fp16.*", "*.non_ema.*")  # second copies of the same weights, and those before averaging
_TIMM_FILES = ("config.json", "model.safetensors")
_OPEN_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
_TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")

PIPELINE = Layout(
    index="model_index.json",
    kept=_PIPELINE_KINDS,
    left=("flux1-*.safetensors", "ae.safetensors"),
    parts=tuple(f"*/{kind}" for kind in _PIPELINE_KINDS),
    unfinished=_unfinished_part,
)
STABLE_DIFFUSION = Layout(  # without the safety checker, whose black images would enter FID, and its feature extractor
    index="model_index.json",
    kept=("model_index.json", *_STABLE_DIFFUSION_FILES),
    left=_OTHER_WEIGHTS,
    parts=_STABLE_DIFFUSION_FILES,
    unfinished=_unfinished_stable_diffusion,
)
TIMM = Layout("config.json", _TIMM_FILES, (), _TIMM_FILES, _first_absent(*_TIMM_FILES))
OPEN_CLIP = Layout(
    index="open_clip_config.json",
    kept=(*_OPEN_CLIP_FILES, *_TOKENIZER_FILES),
    left=(),
    parts=(*_OPEN_CLIP_FILES, *_TOKENIZER_FILES),
    unfinished=_first_absent(*_OPEN_CLIP_FILES),
)
