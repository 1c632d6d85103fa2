"""Records as a run would give them, made up so that the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from attention_chains.report.measurement import Run

ROOT = Path(__file__).resolve().parents[2]
FRACTIONS = 21
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


def made_up_masking(model: str, lasting: Mapping[str, float], n: int = 80, seed: int = 0, clean: float = 0.9) -> Run:
    """A run of masking in which an image that is right unmasked stays right up to about the fraction `lasting`.

    The images' hardness is shared by the methods, as it is in truth: their differences are far surer than their values.
    """
    rng = np.random.default_rng([seed, len(model), *map(ord, model)])
    right, shift = rng.random(n) < clean, rng.normal(0, 0.15, n)
    fractions = np.linspace(0, 1, FRACTIONS)
    records = []
    for i in range(n):
        stats = {}
        for label, last in lasting.items():
            correct = right[i] & ((fractions <= last + shift[i]) | (fractions == 0))
            stats[label] = {"correct": correct.astype(int).tolist()}
        records.append({"index": i, "id": f"s{i:03d}", "stats": stats})
    return Run(f"masking-{model}-{seed}", "masking", model, seed, records)


def made_up_probing(
    model: str, accuracy: Mapping[str, float | Sequence[float]], n: int = 100, seed: int = 0, rates: int = 3
) -> Run:
    """A run of probing: accuracies in [0, 1] of each method, one or one a layer; the middle learning rate is best."""
    rng = np.random.default_rng([seed, *map(ord, model)])
    hardness = rng.random(n)
    records = []
    for i in range(n):
        stats = {}
        for label, truth in accuracy.items():
            layers = [truth] if np.isscalar(truth) else list(truth)
            correct = [[int(hardness[i] < each - 0.1 * abs(k - rates // 2)) for k in range(rates)] for each in layers]
            stats[label] = {"rates": rates, "correct": correct[0] if np.isscalar(truth) else correct}
        records.append({"index": i, "id": f"s{i:03d}", "stats": stats})
    return Run(f"probing-{model}-{seed}", "probing", model, seed, records)


@pytest.fixture
def records() -> list[dict]:
    return made_up_records()


@pytest.fixture
def experiments() -> Path:
    return ROOT / "experiments"


@pytest.fixture(scope="session")
def segmentation_records() -> Callable[..., list[dict]]:
    """`made_up_records`, for tests that need several runs."""
    return made_up_records


@pytest.fixture(scope="session")
def masking_run() -> Callable[..., Run]:
    """`made_up_masking`."""
    return made_up_masking


@pytest.fixture(scope="session")
def probing_run() -> Callable[..., Run]:
    """`made_up_probing`."""
    return made_up_probing
