"""Reads the YAML files of experiments/ into checked dataclasses; what is wrong with one is a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from attention_chains.config.errors import ConfigError

REQUIRED: Any = "???"


def read_yaml(path: Path, kind: type) -> Any:
    """Read one YAML file as a dataclass; one that is ``like: table5`` takes what it does not say from that experiment.

    Raises
    ------
    ConfigError
        When the file is missing or is not YAML, or a key or a type in it is wrong.
    """
    try:
        given = _content(path)
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), given))
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename} does not exist; name a folder of experiments/.") from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None


def _content(path: Path, *before: Path) -> Any:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(given, dict) or "like" not in given:
        return given
    name = given.pop("like")
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ConfigError(f"{path}: like is {name!r}; name another folder of experiments/.")
    other = path.parent.parent / name / path.name
    if other in (path, *before):
        raise ConfigError(f"{path}: like leads back to {name}; name one that says everything itself.")
    taken = _content(other, path, *before)
    if not isinstance(taken, dict):
        raise ConfigError(f"{other}: write a mapping of keys.")
    return {**taken, **given}


def refuse_twice(names: Sequence[str], where: str, path: Path) -> None:
    """Refuse a name that stands twice, with a `ConfigError`."""
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ConfigError(f"{path}: {where} has {name!r} twice; remove one.")


def refuse_unknown(names: Sequence[str], known: Sequence[str], where: str, what: str, path: Path) -> None:
    """Refuse a name that is not among the known ones, with a `ConfigError`."""
    for name in names:
        if name not in known:
            raise ConfigError(f"{path}: {where} names {name!r}, which is not a {what}{_nearest(name, known)}")


def _sentence(error: Exception) -> str:
    if isinstance(error, ConfigKeyError):
        known = [entry.name for entry in fields(error.object_type)]
        return f"{error.full_key!r} is not a key{_nearest(str(error.key), known)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key!r} is missing; add it."
    where = getattr(error, "full_key", None)
    return (
        f"{where!r}: {_first_line(error)}; correct it." if where else f"{_first_line(error)}; write a mapping of keys."
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}." if close else f"; choose from: {', '.join(known)}."
