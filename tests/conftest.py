"""What holds for every test: the same examples each time, one thread, no network, no screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Set before torch, matplotlib or a hub client is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true")
os.environ.pop("HYDRA_FULL_ERROR", None)

settings.register_profile("house", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("house")

pytest_plugins = ["tiny_flux", "tiny_sd"]  # of tests/fixtures


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The folder of the training scripts, from now on importable: `import minis.flux`."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    return ROOT / "scripts"
