"""From the command line to a run: the one place where jobs are started, here, in other processes or on a cluster.

Hydra composes and sweeps; the launchers themselves are in configs/launcher/. This file checks a sweep before its first
job is queued, and turns every error that a user can act on into one sentence and an exit status.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from attention_chains.config import ConfigError, RunConfig, explain, resolve

TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1"
FAILED, BAD_CONFIG, INTERRUPTED = 1, 2, 130
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}


def command_line(job: Callable[[], None], configs: Path) -> None:
    """Run a `hydra.main` function; where the user can act, leave with a sentence instead of a traceback.

    Parameters
    ----------
    job : callable
        The decorated function; its body calls `attempt`.
    configs : Path
        The folder of the configuration files.

    Notes
    -----
    Exit status: 2 for a configuration that cannot be run, 1 for a run that failed, 130 for Ctrl-C. With
    HYDRA_FULL_ERROR=1 in the environment every error keeps its traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes errors on instead of printing them itself
    try:
        check_sweep(sys.argv[1:], configs)
        job()
    except KeyboardInterrupt as stop:
        leave(INTERRUPTED, str(stop) or "Interrupted: the finished samples are kept; the same command resumes.")
    except Exception as error:
        leave_with(error)


def attempt(config: DictConfig, run: Callable[[RunConfig], dict[str, float]]) -> dict[str, float]:
    """Resolve what Hydra composed and run it: the body of every job.

    A job of a sweep hands its error to the launcher, which finishes the other jobs and then reports it. A single run
    ends here, before Hydra adds words of its own.
    """
    try:
        return run(resolve(config, HydraConfig.get().overrides.task))
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        leave_with(error)


def runs_of(asked: RunConfig, overrides: Sequence[str]) -> tuple[list[RunConfig], list[RunConfig]]:
    """Every run of an experiment, composed anew: with each of its models, and of each of its parts.

    Parameters
    ----------
    asked : RunConfig
        What the command line resolves to.
    overrides : sequence of str
        The overrides of the command line. One that chooses a model leaves only that model's runs to be done.

    Returns
    -------
    now, others : list of RunConfig
        What is to be run, and what belongs to the same table but is left to other jobs. Without an experiment of
        several models or experiments: `asked` itself, and nothing.

    Raises
    ------
    ConfigError
        The experiment has no model at this scale, or a model was chosen for parts that have models of their own.
    """
    if asked.parts:
        return _runs_of_parts(asked, overrides), []
    if asked.beside:
        return [asked, *_runs_beside(asked, overrides)], []
    if not asked.models:
        return [asked], []
    if asked.scale not in asked.models:
        raise ConfigError(
            f"experiment={asked.experiment} has no models at scale={asked.scale}; add models.{asked.scale}."
        )
    chosen = [each for each in overrides if each.startswith("model=")]
    rest = [each for each in overrides if each not in chosen]
    runs = {name: _resolved([*rest, f"model={name}"]) for name in asked.models[asked.scale]}
    if not chosen:
        return list(runs.values()), []
    if asked.model.name not in runs:
        raise ConfigError(
            f"model={asked.model.name} is none of the models of experiment={asked.experiment} at scale={asked.scale}, "
            f"which are {', '.join(runs)}: choose one of these, or leave the experiment out."
        )
    return [asked], [run for name, run in runs.items() if name != asked.model.name]


def _runs_of_parts(asked: RunConfig, overrides: Sequence[str]) -> list[RunConfig]:
    for given in overrides:
        if given.startswith(("model=", "model.", "task=", "data=")):
            raise ConfigError(
                f"'{given}' cannot be given to experiment={asked.experiment}, which is filled by "
                f"{', '.join(asked.parts)}; give it to one of those."
            )
    rest = [each for each in overrides if not each.startswith("experiment=")]
    runs = []
    for part in asked.parts:
        of_part = [*rest, f"experiment={part}"]
        runs += runs_of(_resolved(of_part), of_part)[0]
    return runs


def _runs_beside(asked: RunConfig, overrides: Sequence[str]) -> list[RunConfig]:
    """The runs of other experiments for the same table: not told what was said of the own task, model or methods."""
    own = ("experiment=", "model=", "model.", "methods.", "task.")
    rest = [each for each in overrides if not each.lstrip("+~").startswith(own)]
    return [run for name in asked.beside for run in runs_of(_resolved([*rest, f"experiment={name}"]), rest)[0]]


def _resolved(overrides: list[str]) -> RunConfig:
    return resolve(compose("config", overrides), overrides)


def check_sweep(arguments: Sequence[str], configs: Path) -> None:
    """Resolve every job of a sweep, so that a wrong value is told now and not by a job that waited in a queue.

    Raises
    ------
    ConfigError, HydraException
        For the first job that cannot be composed or resolved.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return
    overrides = [each for each in arguments if "=" in each and not each.startswith("-")]
    with initialize_config_dir(str(configs), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        for jobs in BasicSweeper.split_arguments(parser.parse_overrides(overrides), max_batch_size=None):
            for job in jobs:
                runs_of(_resolved(job), job)


def leave_with(error: Exception) -> NoReturn:
    """Leave with the sentence of an error that was written for the user; any other error is raised again.

    Such errors are the `ConfigError` behind what Hydra refuses, the typed errors (each room's `errors.py`), a job that
    was killed, and a results folder that cannot be written.
    """
    if TRACEBACK_WANTED:
        raise error
    if wrong_config := explain(error):
        leave(BAD_CONFIG, str(wrong_config))
    if is_typed(error):
        leave(FAILED, str(error))
    if log := _log_of_lost_job(error):
        leave(FAILED, f"A job of the sweep ended without a result; what it last said is in {log}.")
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        leave(FAILED, f"Cannot write {error.filename or 'a file'}: {error.strerror}; give another folder with out=...")
    raise error


def is_typed(error: Exception) -> bool:
    """Whether an error comes from an `errors.py` of this package (asked without importing the rooms, and so torch)."""
    module = type(error).__module__
    return module.startswith("attention_chains.") and module.endswith(".errors")


def _log_of_lost_job(error: Exception) -> str | None:
    """Folder of the log of a job that was killed; its launcher's error names only the file that started it."""
    started = re.search(r"(\S+)/\S+_submitted\.pkl", str(error))
    return started.group(1) if started and type(error).__name__ == "UncompletedJobError" else None


def leave(status: int, sentence: str) -> NoReturn:
    """Print a sentence on stderr and exit."""
    print(sentence, file=sys.stderr)
    sys.exit(status)
