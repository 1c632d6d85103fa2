"""Intervals of sets: a delete-a-group jackknife by hand, its coverage where the truth is known, and what it pairs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy.stats import t as student

from attention_chains.metrics import generation
from attention_chains.records import RecordError, RunIdentity
from attention_chains.records.identity import claim_folder
from attention_chains.report.bootstrap import Interval
from attention_chains.report.experiment import Experiment
from attention_chains.report.jackknife import GROUPS, groups_of, jackknife_interval
from attention_chains.report.measurement import Run, SetMeasurement, collect

D, CLASSES, N, SUBSET = 4, 3, 100, 30
ROWS = {"none": 0.0, "sag": 0.2, "sag-tokenrank": 0.4}  # how far off the reference


def packed(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


@pytest.fixture
def generated(tmp_path: Path) -> Callable[..., Run]:
    """A run of made-up features; the methods differ by a shift, and share what an image has of its own."""

    def make(shifts: Mapping[str, float] = ROWS, seed: int = 0, n: int = N) -> Run:
        rng, folder = np.random.default_rng(seed), tmp_path / f"run-{seed}"
        identity = RunIdentity({"data": {"kid_subset": SUBSET}}, "p", "w", "d")
        claim_folder(folder, identity)
        reference = np.random.default_rng(99).normal(0, 1, (120, D)).astype(np.float32)
        save_file(
            {"features": reference, "logits": np.zeros((120, CLASSES), np.float32)}, folder / "reference.safetensors"
        )
        records = []
        for i in range(n):
            own, logits = rng.normal(0, 1, D), rng.normal(0, 1, CLASSES)
            stats = {
                label: {"features": packed(own + shift), "logits": packed(logits * (1 + shift)), "masked": 0.1}
                for label, shift in shifts.items()
            }
            records.append({"index": i, "id": f"{i:05d}", "stats": stats})
        return Run(folder.name, "generation", "sd15", seed, records, folder)

    return make


def features(run: Run, label: str) -> np.ndarray:
    return np.stack([generation.row(record["stats"][label]) for record in run.records])


def by_hand(values: list[float]) -> float:
    """Standard error of a delete-a-group jackknife, written out."""
    g, mean = len(values), sum(values) / len(values)
    return ((g - 1) / g * sum((value - mean) ** 2 for value in values)) ** 0.5


def quantile(groups: int) -> float:
    """Of Student's t, as tables print it: 2.093 for 20 groups."""
    return float(student.ppf(0.975, groups - 1))


def half_width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.floats(-5, 5))
def test_the_interval_is_that_of_the_formula(without, value) -> None:
    found = jackknife_interval(value, np.array(without))
    half = quantile(len(without)) * by_hand(without)
    assert (found.low, found.high) == pytest.approx((value - half, value + half), abs=1e-9, rel=1e-9)
    assert 0 <= found.positive <= 1 and (found.positive >= 0.5 or value < 0)


def test_of_a_mean_it_is_the_standard_error_of_the_groups_means() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    groups = groups_of(len(values))
    found = jackknife_interval(values.mean(), np.array([np.delete(values, group).mean() for group in groups]))
    means = [values[group].mean() for group in groups]
    assert half_width(found) == pytest.approx(2.093 * np.std(means, ddof=1) / GROUPS**0.5, rel=1e-4)


@given(st.integers(1, 500))
def test_every_image_is_in_one_group_of_about_the_same_size(n) -> None:
    groups = groups_of(n)
    assert np.concatenate(groups).tolist() == list(range(n)) and len(groups) == min(n, GROUPS)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_ninety_five_percent_of_the_intervals_hold_the_truth() -> None:
    """The distance of N(m, s) to a fixed reference, kernel (xy + 1)^3 in one dimension: E is known in closed form."""
    m, s, reference = 1.0, 0.3, np.random.default_rng(5).normal(0, 1, (50, 1)).astype(np.float32)
    raw = [1, m, m**2 + s**2, m**3 + 3 * m * s**2]  # moments
    within = sum(c * raw[k] ** 2 for k, c in enumerate((1, 3, 3, 1)))
    across = np.mean([sum(c * raw[k] * y**k for k, c in enumerate((1, 3, 3, 1))) for y in reference[:, 0].tolist()])
    rng, trials, n = np.random.default_rng(0), 300, 200
    groups, held = groups_of(n), 0
    for _ in range(trials):
        x = rng.normal(m, s, (n, 1)).astype(np.float32)
        kernel = (x.astype(float) @ x.T + 1) ** 3
        value = (kernel.sum() - np.trace(kernel)) / (n * (n - 1)) - 2 * ((x @ reference.T + 1.0) ** 3).mean()
        found = jackknife_interval(value, generation._distances_without(x, reference, groups))
        held += found.low <= within - 2 * across <= found.high
    assert 0.91 <= held / trials <= 0.985  # a binomial of 300


def test_values_are_torch_fidelitys_and_intervals_the_jackknifes_over_sorted_ids(generated) -> None:
    run = generated()
    shuffled = Run(run.name, run.task, run.model, 0, list(reversed(run.records)), run.folder)
    measured = collect([shuffled], "generation", "sag")
    rows = features(run, "sag")
    reference = np.random.default_rng(99).normal(0, 1, (120, D)).astype(np.float32)
    values = generation.evaluate(rows, reference, SUBSET)
    without = generation.leave_out(rows, reference, groups_of(N))
    assert isinstance(measured, SetMeasurement) and measured.n == N
    draws = generation.random_parts(rows, reference, SUBSET)["KID"]
    for name in ("IS", "FID", "KID"):
        found = measured.metric(name)
        assert found.value == pytest.approx(values[name])
        noise = np.std(draws) / 10 if name == "KID" else 0  # 100 draws
        assert half_width(found) == pytest.approx(2.093 * np.hypot(by_hand(without[name].tolist()), noise), rel=1e-4)


def test_a_difference_leaves_out_the_same_groups_and_is_surer_than_two_values(generated) -> None:
    run = generated()
    first, second = (collect([run], "generation", label) for label in ("sag-tokenrank", "sag"))
    for name in ("IS", "FID", "KID"):
        difference = first.minus(second, name)
        assert difference.value == pytest.approx(first.metric(name).value - second.metric(name).value)
        assert half_width(difference) < np.hypot(half_width(first.metric(name)), half_width(second.metric(name)))
    assert first.minus(first, "FID") == Interval(0, 0, 0, 0.5)


def test_seeds_are_averaged_and_their_spread_is_told(generated) -> None:
    runs = [generated(seed=seed) for seed in (0, 1, 2)]
    each = [collect([run], "generation", "sag").metric("FID") for run in runs]
    measured = collect(runs, "generation", "sag")
    assert measured.metric("FID").value == pytest.approx(np.mean([found.value for found in each]))
    assert measured.spread("FID") == pytest.approx(np.std([found.value for found in each], ddof=1))
    assert measured.repeats == 3 and set(measured.by_seed("KID")) == {0, 1, 2}


def test_a_run_without_its_references_features_says_what_to_do(generated) -> None:
    run = generated()
    (run.folder / "reference.safetensors").write_bytes(b"torn")
    with pytest.raises(RecordError, match=r"reference\.safetensors is not there or broken: delete it if it is"):
        collect([run], "generation", "sag").metric("FID")
    (run.folder / "reference.safetensors").unlink()
    with pytest.raises(RecordError, match="is not there or broken"):
        collect([run], "generation", "sag").minus(collect([run], "generation", "none"), "FID")


def test_different_images_are_not_compared(generated) -> None:
    first = collect([generated()], "generation", "sag")
    with pytest.raises(ValueError, match="Different images for the two methods compared"):
        first.minus(collect([generated(seed=1, n=N - 1)], "generation", "none"), "FID")


def test_the_table_names_the_jackknife_and_gives_kid_four_decimals(
    generated, experiments: Path, tmp_path: Path
) -> None:
    run = generated()
    cells, _ = Experiment.read(experiments / "table2").render(
        [run], tmp_path, "mini", "generation-1", "sd15 on prompts"
    )
    text = (tmp_path / "table2/mini/table.md").read_text()
    assert (
        "Intervals: 95 % by Student's t, with the standard error of a jackknife" in text
        and "percentile bootstrap" not in text
    )
    assert "the first is the better (FID, KID: the lower)" in text and "in the unit of its column" in text
    kid = next(cell.measured for cell in cells if (cell.row, cell.column) == ("SAG", "KID"))
    assert f"| SAG | 0.023 | {kid:.4f} |" in text.replace("\N{MINUS SIGN}", "-")
    fid = {cell.row: cell.measured for cell in cells if cell.column == "FID"}
    assert fid["SD1.5"] < fid["SAG"] < fid["SAG+TokenRank"]
    assert (
        "by FID (lower is better): SD1.5 < SAG+TokenRank < SAG. In the measurement this order: **does not hold**"
        in text
    )
    assert "(reproduced)" not in text
