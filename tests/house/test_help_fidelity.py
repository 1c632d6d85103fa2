"""`python run.py --help` tells everything that can be chosen, and does so without the heavy imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attention_chains.config.explain import schema_keys
from attention_chains.config.schema import RunConfig

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "diffusers", "transformers", "timm", "wandb", "matplotlib", "sklearn", "skimage"}
RUN_AND_REPORT = f"""
import runpy, sys
sys.argv = ["run.py", "--help"]
try:
    runpy.run_path("run.py", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", sorted({HEAVY!r} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def help_text() -> str:
    done = subprocess.run([sys.executable, "-c", RUN_AND_REPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_help_needs_none_of_the_heavy_packages(help_text):
    assert help_text.splitlines()[-1] == "HEAVY []"


def test_help_lists_every_option_of_every_group(help_text):
    options = [path for path in ROOT.glob("configs/*/*.yaml") if not path.name.startswith("_")]
    assert len(options) > 10
    assert [path for path in options if f"  {path.parent.name}={path.stem} " not in help_text] == []


def test_help_lists_every_key(help_text):
    sections = {key.rpartition(".")[0] for key in schema_keys(RunConfig)} | {"methods", "model.at"}
    keys = [key for key in schema_keys(RunConfig) if key not in sections and not key.endswith(".name")]
    assert [key for key in keys if f"  {key}=" not in help_text] == []


def test_help_fits_a_terminal_of_120_columns(help_text):
    assert [line for line in help_text.splitlines() if len(line) > 120] == []
