"""Says in one sentence what Hydra and OmegaConf have to say about a configuration that does not compose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from attention_chains.config.errors import ConfigError
from attention_chains.config.nearest import nearest, suggestion
from attention_chains.config.schema import RunConfig

REWORDED = (
    (r"Ambiguous value for argument '(.+?)'", "'{0}' gives several values; add -m for a job each, or write key=[a,b]."),
    (r"Multiple values for (\w+)", "{0} has a choice already; write {0}=... without the plus sign."),
    (r"Config group override must be", "A group takes the name of one of its options; `run.py --help` lists them."),
)


def explain(error: Exception) -> ConfigError | None:
    """The `ConfigError` that says what a Hydra or OmegaConf error means; None for any other error."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(error, cause)
    if isinstance(cause, OmegaConfBaseException):
        return _refused_value(cause)
    return _reworded(str(error)) or (ConfigError(_one_line(str(error))) if isinstance(error, HydraException) else None)


def _unknown_option(error: MissingConfigException) -> ConfigError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = [name for name in error.options or [] if not name.startswith("_")]
    if not options:
        return ConfigError(_one_line(str(error)))
    near = nearest(option, options)
    meant = f"; did you mean {near[0]}?" if near else "."
    return ConfigError(f"{group}={option} does not exist: {group} is one of {', '.join(options)}{meant}")


def _unreadable(error: OverrideParseException) -> ConfigError:
    return ConfigError(
        f"'{error.override}' cannot be read as key=value ({_one_line(error.message)}); quote values that hold spaces, "
        "commas or brackets, like 'data.prompt=\"a {word}\"'."
    )


def _unknown_key(error: Exception, cause: OmegaConfBaseException) -> ConfigError:
    typed = re.search(r"Could not override '([^']+)'", str(error))
    name = typed.group(1) if typed else str(cause.full_key)
    return ConfigError(f"There is no key '{name}'; {suggestion(name, _valid_keys(cause))}")


def _valid_keys(cause: OmegaConfBaseException) -> list[str]:
    """Dotted names: the keys beside the unknown one (labels of a mapping included), then every key of the schema."""
    parent = str(cause.full_key).rpartition(".")[0]
    beside = list(cause.parent_node) if isinstance(cause.parent_node, DictConfig) else []
    return [f"{parent}.{name}" if parent else str(name) for name in beside] + list(schema_keys(RunConfig))


def schema_keys(kind: type, path: str = "") -> Iterator[str]:
    """Every dotted key below a dataclass type; entries of a mapping have no fixed name and are left out."""
    hints = get_type_hints(kind)
    for each in fields(kind):
        yield f"{path}{each.name}"
        if is_dataclass(hints[each.name]):
            yield from schema_keys(hints[each.name], f"{path}{each.name}.")


def _refused_value(cause: OmegaConfBaseException) -> ConfigError:
    return ConfigError(
        f"{cause.full_key or 'the configuration'} cannot be set so: {_one_line(cause.msg or str(cause))}; "
        "`python run.py --help` says what each key takes."
    )


def _reworded(message: str) -> ConfigError | None:
    for pattern, sentence in REWORDED:
        if found := re.match(pattern, message):
            return ConfigError(sentence.format(*found.groups()))
    return None


def _one_line(message: str) -> str:
    """Without line breaks, the full stop, and the lines that point to Hydra's own manual and search path."""
    lines = [line.strip() for line in message.split("Config search path:")[0].splitlines()]
    noise = re.compile(r"See https?:|full_key:|reference_type=|object_type=|$")
    return " ".join(line for line in lines if not noise.match(line)).rstrip(".")
