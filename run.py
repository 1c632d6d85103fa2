"""Run one task, or a sweep with -m: compose the configuration, check it, hand it to the task. `--help` says how."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from attention_chains import config, launch

CONFIGS = Path(__file__).resolve().parent / "configs"
EXPERIMENTS = CONFIGS.parent / "experiments"


def run(resolved: config.RunConfig) -> dict[str, float]:
    """Run the task and show what it gave; torch is imported here, so that --help and a mistyped key answer at once."""
    from attention_chains import tasks
    from attention_chains.report.present import present

    task = tasks.build(resolved)
    return present(task, resolved, tasks.run(task, resolved), EXPERIMENTS)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def job(composed: DictConfig) -> dict[str, float]:
    """One job, as Hydra composed it."""
    return launch.attempt(composed, run)


if __name__ == "__main__":
    config.register(CONFIGS)
    launch.command_line(job, CONFIGS)
