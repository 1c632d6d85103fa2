"""Run one task, or a sweep with -m: compose the configuration, check it, hand it to the task. `--help` says how."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attention_chains import config, launch

CONFIGS = Path(__file__).resolve().parent / "configs"
EXPERIMENTS = CONFIGS.parent / "experiments"


def run(resolved: config.RunConfig, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Run the task and show what it gave; torch is imported here, so that --help and a mistyped key answer at once."""
    now, others = launch.runs_of(resolved, overrides)

    from attention_chains import tasks
    from attention_chains.report.present import present

    finished = tasks.run_all(now)
    recorded = [found for each in others if (found := tasks.recorded(each))]
    return present(finished, recorded, resolved, EXPERIMENTS)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def job(composed: DictConfig) -> dict[str, float]:
    """One job, as Hydra composed it."""
    return launch.attempt(composed, partial(run, overrides=HydraConfig.get().overrides.task))


if __name__ == "__main__":
    config.register(CONFIGS)
    launch.command_line(job, CONFIGS)
