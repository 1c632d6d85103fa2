"""Records as a run would give them, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LABELS = (
    "row-select",
    "row-select-uniform",
    "column-select",
    "column-select-uniform",
    "single-stream",
    "incoming-n2",
    "incoming-n2-uniform",
    "incoming-n3",
    "outgoing-n2",
    "outgoing-n2-uniform",
    "outgoing-n3",
)


def made_up_records(n: int = 12, seed: int = 0) -> list[dict]:
    """Statistics of 64 x 64 images; later labels are better on every image."""
    rng = np.random.default_rng(seed)
    return [{"index": i, "id": f"s{i:03d}", "stats": _statistics(rng)} for i in range(n)]


def _statistics(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    hard, stats = int(rng.integers(0, 200)), {}
    for rank, label in enumerate(LABELS):
        wrong = 300 + hard - 20 * rank
        ap = 0.5 + 0.03 * rank + 0.01 * rng.random()
        stats[label] = {"tn": 3500 - wrong, "fp": wrong, "fn": 96, "tp": 500, "ap": ap, "fg_ap": ap - 0.1}
    return stats


@pytest.fixture
def records() -> list[dict]:
    return made_up_records()


@pytest.fixture
def experiments() -> Path:
    return ROOT / "experiments"
