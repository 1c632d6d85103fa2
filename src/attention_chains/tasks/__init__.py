"""What is run and what is measured."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from attention_chains.config import ConfigError, RunConfig
from attention_chains.config.checks import check_fits
from attention_chains.models import AssetError
from attention_chains.tasks.runner import Outcome, Task, read_outcome, run_task

TASKS = {  # by the module that holds it
    "segmentation": "Segmentation",
    "masking": "Masking",
    "probing": "Probing",
    "generation": "Generation",
    "diffseg": "Diffseg",
}

__all__ = ["TASKS", "Finished", "Outcome", "Task", "build", "free_memory", "recorded", "run", "run_all"]


@dataclass(frozen=True)
class Finished:
    """What one configuration gave: an outcome for each of its seeds."""

    config: RunConfig
    outcomes: list[Outcome]

    @property
    def complete(self) -> bool:
        """Whether every sample of every seed is measured or skipped."""
        return all(outcome.complete for outcome in self.outcomes)


def build(config: RunConfig) -> Task:
    """The task of a resolved configuration.

    Raises
    ------
    ConfigError
        There is no such task, or it takes neither this model nor this data.
    """
    name = config.task.name
    if name not in TASKS:
        raise ConfigError(f"There is no task '{name}': choose one of {', '.join(TASKS)}.")
    check_fits(config)
    return getattr(importlib.import_module(f"{__name__}.{name}"), TASKS[name])(config)


def run(task: Task, config: RunConfig) -> list[Outcome]:
    """Run a task once for each of its seeds; what is recorded already is not computed again.

    Raises
    ------
    AssetError
        Something is missing: all of it, a line each, before anything is run.
    """
    _refuse_missing([task])
    return _outcomes(task, config)


def run_all(configs: Sequence[RunConfig]) -> list[Finished]:
    """Run several configurations (models, tasks) in turn; a model leaves the memory before the next one comes.

    Raises
    ------
    AssetError
        Something is missing for one of them: all of it for all of them, a line each, before anything is run.
    """
    _refuse_missing([build(config) for config in configs])
    finished = []
    for config in configs:
        finished.append(Finished(config, _outcomes(build(config), config)))
        free_memory()
    return finished


def free_memory() -> None:
    """Give back what models hold that nothing refers to: their modules are cycles, which nothing else frees in time."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def recorded(config: RunConfig) -> Finished | None:
    """What earlier runs of a configuration left, if that is all of it; nothing is computed."""
    needing_nothing = replace(config, device="cpu", model=replace(config.model, memory_gb=None))
    task = build(needing_nothing)  # a machine that only draws the table needs no GPU and no room for the model
    if task.missing():
        return None
    outcomes = [read_outcome(task, each) for each in _seeds(config)]
    whole = all(outcome is not None and outcome.complete for outcome in outcomes)
    return Finished(config, outcomes) if whole else None


def _outcomes(task: Task, config: RunConfig) -> list[Outcome]:
    return [run_task(task, each) for each in _seeds(config)]


def _seeds(config: RunConfig) -> list[RunConfig]:
    return [replace(config, seed=config.seed + i, repeats=1) for i in range(config.repeats)]


def _refuse_missing(tasks: Sequence[Task]) -> None:
    missing = dict.fromkeys(sentence for task in tasks for sentence in task.missing())
    if missing:
        raise AssetError("\n".join(missing))
