"""From a composed configuration to what a task is given: one checkpoint, a mapping of methods, every value checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf, open_dict

from attention_chains.config.checks import check, refuse_unknown_keys
from attention_chains.config.errors import ConfigError
from attention_chains.config.schema import Checkpoint, MethodConfig, ModelConfig, RunConfig
from attention_chains.config.signatures import keys_of


def resolve(config: DictConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Turn a composed configuration into the run that a task is given.

    Parameters
    ----------
    config : DictConfig
        What Hydra composed from configs/.
    overrides : sequence of str
        The overrides of the command line, to refuse one that would change nothing.

    Returns
    -------
    RunConfig
        `model` carries the numbers of the checkpoint at `scale` (flat overrides win) and its `at` is empty;
        `methods` has at least one entry: without an experiment, `method` under its own name. Keys of theirs that were
        left out have the method's own defaults.

    Raises
    ------
    ConfigError
        For an unknown key, a missing or out-of-range value, or a model without a checkpoint at this scale.
    """
    run = _as_dataclasses(config)
    check(run)
    _refuse_idle_method(run, overrides)
    methods = run.methods or {run.method.name: run.method}
    completed = {label: _completed(method) for label, method in methods.items()}
    return replace(run, model=_at_scale(run.model, run.scale), methods=completed)


def identity(run: RunConfig) -> dict[str, Any]:
    """What decides the numbers of a resolved run, as plain data: two runs that agree here can share their records.

    Left out is what only says where and how the work is done (shard, device, batch size, paths, logger, launcher), and
    which table asks for it. Weights and data are told apart by their own hashes, not by where they lie. A key without
    a value is left out too, so that a new key does not make other runs of the old ones.
    """
    return _deciding(run)


def _as_dataclasses(config: DictConfig) -> RunConfig:
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    refuse_unknown_keys(config)
    try:
        return OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value; give one with {error.full_key}=...") from error


def _at_scale(model: ModelConfig, scale: str) -> ModelConfig:
    if scale not in model.at:
        raise ConfigError(
            f"model={model.name} has no checkpoint at scale={scale}; it has one at scale={' or '.join(model.at)}."
        )
    chosen, numbers = model.at[scale], [each.name for each in fields(Checkpoint)]
    own = {name: getattr(model, name) for name in numbers}
    if model.source is not None:  # the checkpoint's commit is of its own repository
        chosen = replace(chosen, revision=None)
    filled = {name: getattr(chosen, name) if value is None else value for name, value in own.items()}
    return replace(model, at={}, **filled)


def _completed(method: MethodConfig) -> MethodConfig:
    defaults = keys_of(method.name) or {}
    left_out = [each.name for each in fields(method) if getattr(method, each.name) is None]
    return replace(method, **{name: defaults[name] for name in left_out if name in defaults})


def _refuse_idle_method(run: RunConfig, overrides: Sequence[str]) -> None:
    idle = [each for each in overrides if each.startswith(("method=", "method."))]
    if run.methods and idle:
        raise ConfigError(
            f"'{idle[0]}' would change nothing, because experiment={run.experiment} brings its own methods; "
            f"change one of those with methods.<label>.<key>=..., or leave the experiment out."
        )


def _deciding(node: Any) -> Any:
    if isinstance(node, dict):
        return {label: _deciding(entry) for label, entry in node.items()}
    if not is_dataclass(node):
        return node
    kept = [each.name for each in fields(node) if each.metadata.get("identity", True)]
    return {name: _deciding(getattr(node, name)) for name in kept if getattr(node, name) is not None}
