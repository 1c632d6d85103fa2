"""A command line with the real configuration files and a task that takes no time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os
from pathlib import Path
import hydra
from attention_chains import config, launch
from attention_chains.records.errors import RecordError

CONFIGS = Path({configs!r})

def run(resolved):
    Path(resolved.out, f"shard-{{resolved.shard.index}}-seed-{{resolved.seed}}").write_text(str(os.getpid()))
    if resolved.seed == 1:
        raise RecordError("The disk is full; the finished samples are kept.")
    if resolved.seed == 2:
        raise KeyboardInterrupt
    if resolved.seed == 3:
        os._exit(9)
    if resolved.seed == 4:
        raise ZeroDivisionError("a bug")

@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def job(composed):
    return launch.attempt(composed, run)

if __name__ == "__main__":
    config.register(CONFIGS)
    launch.command_line(job, CONFIGS)
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Arguments in, finished process out. It runs in an empty folder, with out=results there."""
    program = tmp_path / "program" / "run.py"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(configs=str(ROOT / "configs")))
    (tmp_path / "cwd" / "results").mkdir(parents=True)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(program), *arguments],
            cwd=tmp_path / "cwd",
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    """The folder in which `command` runs."""
    return tmp_path / "cwd"
