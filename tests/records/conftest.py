"""Runs in a process of their own, that tests can disturb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attention_chains import records
from attention_chains.records import RunIdentity

WRITER = Path(__file__).parent / "writer_program.py"
SOURCE = Path(records.__file__).parents[2]


@pytest.fixture
def identity() -> RunIdentity:
    return RunIdentity(config={"method": {"n": 2, "alpha": 0.99}}, protocol="ca", weights="w" * 64, data="d" * 64)


@pytest.fixture
def start_writer():
    """Start writer_program.py with these arguments; what is still running at the end of the test is killed."""
    running = []

    def start(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, str(WRITER), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()
