"""What is run and what is measured."""

from __future__ import annotations

from dataclasses import replace

from attention_chains.config import ConfigError, RunConfig
from attention_chains.models import AssetError
from attention_chains.tasks.runner import Outcome, Task, run_task
from attention_chains.tasks.segmentation import Segmentation

TASKS = {"segmentation": Segmentation}

__all__ = ["TASKS", "Outcome", "Task", "build", "run"]


def build(config: RunConfig) -> Task:
    """The task of a resolved configuration.

    Raises
    ------
    ConfigError
        There is no such task.
    """
    if config.task.name not in TASKS:
        raise ConfigError(f"There is no task '{config.task.name}': choose one of {', '.join(TASKS)}.")
    return TASKS[config.task.name](config)


def run(task: Task, config: RunConfig) -> list[Outcome]:
    """Run a task once for each of its seeds; what is recorded already is not computed again.

    Raises
    ------
    AssetError
        Something is missing: all of it, a line each, before anything is run.
    """
    missing = task.missing()
    if missing:
        raise AssetError("\n".join(missing))
    return [run_task(task, replace(config, seed=config.seed + i, repeats=1)) for i in range(config.repeats)]
