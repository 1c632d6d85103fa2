"""A sweep runs one job for each combination, where its launcher says, and fails when one of its jobs fails."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from attention_chains.config import register

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHARDS = ("shard.index=0,1", "shard.count=2")


def processes(cwd: Path, seed: int = 0) -> list[str]:
    """The process that ran each shard."""
    return [path.read_text() for path in sorted((cwd / "results").glob(f"shard-*-seed-{seed}"))]


def test_inline_runs_every_job_in_one_process(command, cwd):
    assert command("-m", *SHARDS).returncode == 0
    assert len(processes(cwd)) == 2 and len(set(processes(cwd))) == 1


def test_local_runs_every_job_in_its_own_process_and_leaves_all_under_results(command, cwd):
    done = command("-m", *SHARDS, "launcher=local")
    assert done.returncode == 0, done.stderr
    assert len(processes(cwd)) == 2 and len(set(processes(cwd))) == 2
    assert [path.name for path in cwd.iterdir()] == ["results"]
    assert list((cwd / "results" / "sweeps").glob("*/jobs/*/*.out"))


def last(done: subprocess.CompletedProcess) -> str:
    """The last line of what a command wrote on stderr."""
    return done.stderr.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("launcher", ["inline", "local"])
def test_a_failed_job_lets_the_others_finish_and_fails_the_sweep(command, cwd, launcher):
    done = command("-m", "seed=1,0", f"launcher={launcher}")
    assert done.returncode == 1
    assert last(done) == "The disk is full; the finished samples are kept.\n"
    assert processes(cwd, seed=0) and processes(cwd, seed=1)


@pytest.mark.slow  # submitit looks for the missing result for a while
def test_a_job_that_dies_without_a_word_fails_the_sweep_and_its_log_is_named(command):
    done = command("-m", "seed=3", "launcher=local")
    assert done.returncode == 1
    folder = re.fullmatch(r"A job of the sweep ended without a result; what it last said is in (\S+)\.\n", last(done))
    assert list(Path(folder.group(1)).glob("*_log.err"))


def test_slurm_asks_for_one_gpu_and_is_queued_again_after_its_time(tmp_path):
    register(CONFIGS)
    chosen = ["launcher=slurm", "launcher.partition=gpu", "launcher.account=lab", f"hydra.sweep.dir={tmp_path}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        asked = compose("config", chosen, return_hydra_config=True).hydra.launcher
    assert asked._target_.endswith("SlurmLauncher")
    assert (asked.partition, asked.account, asked.gpus_per_node) == ("gpu", "lab", 1)
    assert asked.max_num_timeout > 0 and asked.signal_delay_s > 0 and asked.timeout_min > 0
