"""Table 9 makes the paper's tests on what was measured, prints n, and asks the images the same."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from attention_chains.config import ConfigError
from attention_chains.report.measurement import Run
from attention_chains.report.significance import make_tests, read_tests, render_tests

LAYERS = {"lambda2": [0.55, 0.65, 0.75, 0.45, 0.6, 0.7], "uniform": [0.5, 0.6, 0.7, 0.5, 0.5, 0.65]}


@pytest.fixture
def definition(experiments: Path):
    return read_tests(experiments / "table9/table.yaml")


@pytest.fixture
def runs(probing_run, segmentation_records) -> list[Run]:
    segmentation = [Run(f"s{i}", "segmentation", "flux", i, segmentation_records(20, i)) for i in range(5)]
    layers = [probing_run(model, LAYERS, seed=i) for model in ("dinov1", "clip") for i in range(5)]
    maps = [probing_run("dinov1", {"tokenrank": 0.75, "column-sum": 0.7 + 0.02 * i}, seed=i) for i in range(5)]
    return segmentation + layers + maps


def named(label: str, definition, runs: list[Run]):
    return next(each for each in make_tests(definition, runs) if each.test.label == label)


def test_the_statistic_of_the_papers_numbers_follows_from_the_n_that_stands_beside_it(definition) -> None:
    checked = 0
    for test in definition.tests:
        if test.paper.statistic is not None:
            n, statistic = test.paper.n, test.paper.statistic
            against = int(n * (n + 1) / 2 - statistic)  # ranks of the negative differences
            ranks = np.arange(1, n + 1)
            signs = np.where(ranks == against, -1, 1)
            found = stats.wilcoxon(ranks * signs, alternative="greater")
            assert found.statistic == statistic and round(found.pvalue, 3) == test.paper.p
            checked += 1
    assert checked == 6


def test_seeds_are_paired_by_the_metric_of_the_whole_data_set(definition, runs) -> None:
    tested = named("Section B / DINOv1, TokenRank over column sum", definition, runs)
    of_seed = [
        [np.mean([r["stats"][label]["correct"][1] for r in run.records]) for run in runs[-5:]]
        for label in ("tokenrank", "column-sum")
    ]
    expected = stats.wilcoxon(np.round(np.subtract(*of_seed), 9), alternative="greater")
    assert (tested.pairs.statistic, tested.pairs.p, tested.pairs.n) == (expected.statistic, expected.pvalue, 5)


def test_layers_are_paired_by_their_mean_over_the_seeds_each_at_its_best_rate(definition, runs) -> None:
    tested = named("Linear Probing / CLIP", definition, runs)
    clip = [run for run in runs if run.model == "clip"]
    by_layer = [
        np.mean([np.mean([r["stats"][m]["correct"] for r in run.records], 0).max(-1) for run in clip], 0)
        for m in ("lambda2", "uniform")
    ]
    expected = stats.wilcoxon(np.round(100 * np.subtract(*by_layer), 9), alternative="greater")
    assert (tested.pairs.statistic, tested.pairs.p, tested.pairs.n) == (expected.statistic, expected.pvalue, 6)
    assert tested.verdict == ("greater" if expected.pvalue < 0.05 else "not shown")


def test_the_images_are_asked_with_the_difference_and_its_effect(definition, runs) -> None:
    tested = named("Semantic Segmentation / Acc", definition, runs)
    right = {
        label: np.mean(
            [[r["stats"][label]["tn"] + r["stats"][label]["tp"] for r in run.records] for run in runs[:5]], 0
        )
        for label in ("outgoing-n2", "outgoing-n2-uniform")
    }
    difference = right["outgoing-n2"] - right["outgoing-n2-uniform"]
    assert (tested.images.wins, tested.images.losses) == ((difference > 0).sum(), (difference < 0).sum())
    assert tested.difference.value == pytest.approx(100 * difference.mean() / 4096)
    assert tested.difference.low <= tested.difference.value <= tested.difference.high


def test_what_was_not_run_is_said_and_has_no_number(definition, runs, tmp_path: Path) -> None:
    tested, _ = render_tests("table9", definition, runs, tmp_path, "mini", ["p-1"], "models on data", skipped=2)
    rows = {row["test"]: row for row in csv.DictReader((tmp_path / "table9/mini/table.csv").open())}
    assert len(rows) == len(tested) == 9
    assert rows["Linear Probing / DINOv2"]["p"] == "" and rows["Linear Probing / DINOv2"]["verdict"] == "not measured"
    assert rows["Linear Probing / DINOv2"]["paper_p"] == "0.01" and float(rows["Linear Probing / DINOv1"]["n"]) == 6
    text = (tmp_path / "table9/mini/table.md").read_text()
    assert "n (implied)" in text and "not to be compared cell by cell" in text and "2 skipped" in text


def test_too_few_pairs_to_show_anything_are_called_that(definition, runs) -> None:
    tested = make_tests(definition, [run for run in runs if run.seed < 2 and run.task == "segmentation"])
    assert tested[0].pairs.n == 2 and tested[0].verdict == "n = 2 cannot show it"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"metric": "Accc"}, "'Accc', which is not a metric; nearest: Acc"),
        ({"task": "weather"}, "There are no metrics of a task 'weather'"),
        ({"task": "segmentation", "pairs": "layers"}, "pairs layers, which task=segmentation does not measure"),
        ({"pairs": "images"}, "'pairs': Invalid value 'images', expected one of [seeds, layers]"),
    ],
)
def test_a_wrong_test_is_one_sentence(tmp_path: Path, change: dict, sentence: str) -> None:
    test = {"label": "t", "task": "probing", "metric": "Acc", "first": "a", "second": "b", "pairs": "layers"}
    path = tmp_path / "table.yaml"
    path.write_text(f"title: x\ntests: [{{{', '.join(f'{k}: {v}' for k, v in (test | change).items())}, models: [m]}}]")
    with pytest.raises(ConfigError) as caught:
        read_tests(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
