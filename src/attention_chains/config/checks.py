"""The rules that single values must keep, as schema.py states them."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from attention_chains.config.errors import ConfigError
from attention_chains.config.nearest import suggestion
from attention_chains.config.schema import SCALES, MethodConfig, RunConfig
from attention_chains.config.signatures import keys_of

LIMITS = {"low": operator.ge, "above": operator.gt, "high": operator.le}  # false for NaN, all three
ONE_BOUNCE = {"row_select": "incoming", "column_select": "outgoing"}
TASK_KEYS = {"masking": ("blocks", "budget"), "probing": ("heads",)}  # of a method, but used by the task itself
VISION = ("vit", "clip", "dinov1", "dinov2")
TAKES = {  # model families and data sets
    "segmentation": (("flux", "sd15"), ("digit_scenes", "imagenet_segmentation")),
    "masking": (VISION, ("digit_classes", "imagenet", "imagenette")),
    "probing": (VISION, ("digit_classes", "imagenette")),
    "generation": (("sd15",), ("prompts",)),
    "diffseg": (("sd15",), ("digit_labels", "coco_stuff")),
}
WORD = ("noise", "word_index", "pooled", "threshold")
SEGMENTS = ("timestep", "grid", "tau", "iterations", "precision", "refine")
READS = {  # keys of the task, by task and, where that decides, by model family
    "segmentation": {"flux": WORD, "sd15": SEGMENTS},
    "masking": ("fractions",),
    "probing": ("probe", "learning_rates", "epochs", "train_batch", "scaling"),
    "generation": ("width", "cfg", "sag_scale", "layer", "mask_threshold", "mask_cap"),
    "diffseg": SEGMENTS,
}
MAY_BE_NULL = ("mask_cap",)
PROMPT_FIELDS = {"word", "caption"}


def values(node: Any, path: str = "") -> Iterator[tuple[str, Any, Field]]:
    """Every key below a dataclass, as (dotted path, value, field)."""
    for each in fields(node):
        value, here = getattr(node, each.name), f"{path}{each.name}"
        if is_dataclass(value):
            yield from values(value, f"{here}.")
        elif isinstance(value, dict) and not each.metadata.get("flat"):
            for label, entry in value.items():
                yield from values(entry, f"{here}.{label}.")
        else:
            yield here, value, each


def refuse_unknown_keys(config: DictConfig) -> None:
    """Hydra's `+key=value` adds keys that the schema does not have; they would be ignored in silence.

    Raises
    ------
    ConfigError
        Names the first such key and the nearest valid ones.
    """
    for path, name, valid in _structured_keys(config):
        if name not in valid:
            siblings = [f"{path}{other}" for other in valid]
            raise ConfigError(f"There is no key '{path}{name}'; {suggestion(path + name, siblings)}")


def _structured_keys(config: DictConfig, path: str = "") -> Iterator[tuple[str, str, list[str]]]:
    kind = OmegaConf.get_type(config)
    valid = [each.name for each in fields(kind)] if is_dataclass(kind) else list(config)
    for name in config:
        yield path, name, valid
        child = None if OmegaConf.is_missing(config, name) else config[name]
        if isinstance(child, DictConfig):
            yield from _structured_keys(child, f"{path}{name}.")


def check(run: RunConfig) -> None:
    """Check every value of a run against the rules of the schema, and the few rules that tie two keys together.

    Raises
    ------
    ConfigError
        Names the key, its value and the rule.
    """
    for path, value, each in values(run):
        for single in value if isinstance(value, list) else [value]:
            if single is not None:
                _check_value(path, single, each.metadata)
    _check_shard(run)
    _check_prompt(run)
    _check_models(run)
    _check_subsets(run)
    for path, method in {"method": run.method, **{f"methods.{k}": v for k, v in run.methods.items()}}.items():
        _check_bounces(path, method)
        _check_teleport(path, method)
        _check_taken(path, method, run.task.name)
        _check_heads(path, method, run.task.name)


def _check_value(path: str, value: Any, rules: Mapping[str, Any]) -> None:
    choices = rules.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{path} cannot be '{value}'; it is one of {', '.join(choices)}.")
    if "pattern" in rules and not re.fullmatch(rules["pattern"], value):
        form = rules.get("form", f"one of {rules['meaning']}")
        raise ConfigError(f"{path} cannot be '{value}'; it is {form}.")
    if not all(holds(value, rules[rule]) for rule, holds in LIMITS.items() if rule in rules):
        raise ConfigError(f"{path} is {value}, but it must be {_limits(rules)} ({rules['meaning']}).")


def _limits(rules: Mapping[str, Any]) -> str:
    words = {"low": "at least", "above": "above", "high": "at most"}
    return " and ".join(f"{word} {rules[rule]}" for rule, word in words.items() if rule in rules)


def check_fits(run: RunConfig) -> None:
    """Check that a task is asked for a model, data and settings that it takes.

    Raises
    ------
    ConfigError
        Names what does not fit, and what would.
    """
    families, datasets = TAKES.get(run.task.name, ((run.model.family,), (run.data.name,)))
    if run.model.family not in families:
        raise ConfigError(
            f"task={run.task.name} cannot be run with model={run.model.name}, which is of the family "
            f"{run.model.family}; it takes {', '.join(families)}."
        )
    known = {name for _, names in TAKES.values() for name in names}
    if run.data.name in known - set(datasets):
        raise ConfigError(
            f"task={run.task.name} cannot be run on data={run.data.name}; it takes {', '.join(datasets)}."
        )
    _check_task_keys(run)


def _check_teleport(path: str, method: MethodConfig) -> None:
    if method.power is not None and method.alpha is not None:
        raise ConfigError(
            f"{path}.alpha={method.alpha:g} would change nothing, because {path}.power={method.power} bounces without "
            f"teleport; set {path}.power=null, or leave alpha out."
        )


def _check_shard(run: RunConfig) -> None:
    if run.shard.index >= run.shard.count:
        raise ConfigError(
            f"shard.index is {run.shard.index}, but with shard.count={run.shard.count} "
            f"it must be from 0 to {run.shard.count - 1}."
        )


def _check_bounces(path: str, method: MethodConfig) -> None:
    if method.name in ONE_BOUNCE and method.n not in (None, 1):
        raise ConfigError(
            f"{path}.n is {method.n}, but {method.name} is one bounce by definition; "
            f"for more bounces use {ONE_BOUNCE[method.name]}."
        )


def _check_taken(path: str, method: MethodConfig, task: str) -> None:
    taken = keys_of(method.name)
    if taken is None:
        return  # the methods room says which there are
    usable = [*taken, *TASK_KEYS.get(task, ())]
    for each in fields(method):
        if each.name not in ("name", *usable) and getattr(method, each.name) is not None:
            keys = f"its keys are {', '.join(usable)}" if usable else "it has no keys"
            raise ConfigError(
                f"{path}.{each.name} is {getattr(method, each.name)}, but task={task} has no use for it with "
                f"{method.name}: {keys}."
            )


def _check_heads(path: str, method: MethodConfig, task: str) -> None:
    if method.heads == "random" and task == "segmentation":
        raise ConfigError(f"{path}.heads is random, but task={task} mixes heads by lambda2 or uniform.")


def _check_subsets(run: RunConfig) -> None:
    subset = run.data.kid_subset
    for name in ("n", "reference_n"):
        number = getattr(run.data, name)
        if subset is not None and number is not None and number < subset:
            raise ConfigError(
                f"data.{name} is {number}, fewer than the {subset} images of a KID subset: raise it, or lower "
                "data.kid_subset."
            )


def _check_task_keys(run: RunConfig) -> None:
    """A key without effect would be printed as part of the protocol, and one without a value fail after hours."""
    task, reads = run.task, READS.get(run.task.name, {})
    keys = reads.get(run.model.family) if isinstance(reads, dict) else reads
    if keys is None or not reads:
        return
    for each in fields(task):
        value = getattr(task, each.name)
        if each.name in keys and value is None and each.name not in MAY_BE_NULL:
            raise ConfigError(
                f"task.{each.name} has no value, but {_with(run)} needs one ({each.metadata['meaning']})."
            )
        idle = each.name not in ("name", "protocol", *keys) and each.metadata.get("identity", True)
        if idle and value is not None:
            raise ConfigError(
                f"task.{each.name} is {value}, but {_with(run)} has no use for it: its keys are {', '.join(keys)}."
            )


def _with(run: RunConfig) -> str:
    return f"task={run.task.name} with model={run.model.name}"


def _check_models(run: RunConfig) -> None:
    for scale in run.models:
        if scale not in SCALES:
            raise ConfigError(f"models.{scale} is of no scale; name the models of {' or '.join(SCALES)}.")


def _check_prompt(run: RunConfig) -> None:
    if run.data.prompt is None:
        return
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(run.data.prompt) if name is not None}
    except ValueError as error:
        raise ConfigError(f"data.prompt '{run.data.prompt}' is not a template: {error}.") from error
    if run.data.name == "prompts" and used:
        raise ConfigError(f"data.prompt is '{run.data.prompt}', but data=prompts has nothing to fill in: write it out.")
    for unknown in sorted(used - PROMPT_FIELDS):
        raise ConfigError(f"data.prompt has '{{{unknown}}}', but only {{word}} and {{caption}} can be filled in.")
