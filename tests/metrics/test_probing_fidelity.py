"""Accuracy of a probe is the count one would make by hand, and its sums lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.probing import METRICS, best_rates, image_scores, layer_accuracies, row, summarise

MAPS = [
    {"rates": 3, "correct": [1, 0, 1]},
    {"rates": 3, "correct": [0, 0, 1]},
    {"rates": 3, "correct": [1, 0, 0]},
    {"rates": 3, "correct": [0, 0, 1]},
]
LAYERS = [
    {"rates": 2, "correct": [[1, 1], [0, 1], [0, 0]]},
    {"rates": 2, "correct": [[1, 0], [0, 1], [0, 1]]},
]


def summed(records) -> tuple[np.ndarray, int]:
    rows = np.array([row(record) for record in records])
    return rows.sum(0), len(rows)


def test_all_maps_the_best_rate_counts():
    assert row(MAPS[0]) == [3.0, 1.0, 0.0, 1.0]
    assert summarise(*summed(MAPS)) == {"Acc": pytest.approx(75)}
    assert best_rates(*summed(MAPS)).tolist() == [2]
    assert image_scores(np.array([row(record) for record in MAPS])).tolist() == [1, 1, 0, 1]


def test_layers_each_has_its_own_best_rate_and_the_mean_is_reported():
    assert layer_accuracies(*summed(LAYERS)).tolist() == [100, 100, 50]
    assert summarise(*summed(LAYERS)) == {"Acc": pytest.approx(250 / 3)}
    assert best_rates(*summed(LAYERS)).tolist() == [0, 1, 1]
    assert image_scores(np.array([row(record) for record in LAYERS])) == pytest.approx([2 / 3, 1])


def test_of_equal_rates_the_first_is_best():
    assert best_rates(*summed([{"rates": 3, "correct": [0, 1, 1]}])).tolist() == [1]


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_sums_are_vectorised_over_whatever_comes_before(layers, rates, n, seed):
    correct = np.random.default_rng(seed).integers(0, 2, (3, n, layers, rates))
    sums = np.array([[row({"rates": rates, "correct": image.tolist()}) for image in run] for run in correct]).sum(1)
    expected = [100 * np.mean([max(run[:, layer].mean(0)) for layer in range(layers)]) for run in correct]
    assert summarise(sums, n)["Acc"] == pytest.approx(expected)
    assert summarise(sums[:2], np.array([n, n]))["Acc"] == pytest.approx(expected[:2])


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_the_mean_of_the_images_scores_is_the_accuracy(layers, rates, n, seed):
    correct = np.random.default_rng(seed).integers(0, 2, (n, layers, rates))
    rows = np.array([row({"rates": rates, "correct": image.tolist()}) for image in correct])
    assert 100 * image_scores(rows).mean() == pytest.approx(summarise(rows.sum(0), n)["Acc"])


def test_the_metric_says_what_it_is():
    assert [(metric.name, metric.better, metric.unit) for metric in METRICS] == [("Acc", "higher", "%")]


@pytest.mark.parametrize(
    "stats",
    [{"rates": 2, "correct": [1, 0, 1]}, {"rates": 2, "correct": [[1, 0], [1]]}, {"rates": 0, "correct": []}],
)
def test_a_record_with_another_number_of_rates_is_refused(stats):
    with pytest.raises(MetricError, match="give one 0 or 1 for each rate"):
        row(stats)


@pytest.mark.parametrize(
    ("sums", "n", "sentence"),
    [
        (np.zeros((2, 4)), 0, "measure at least one image first"),
        (np.zeros(1), 2, "Statistics have shape"),
        (np.array([4.0, 1, 1, 1]), 2, "3 classifiers cannot be of 2 learning rates"),
        (np.array([[4.0, 1, 1], [2.0, 1, 1]]), 2, "sum only rows of one method"),
    ],
)
def test_sums_that_are_none_are_refused(sums, n, sentence):
    with pytest.raises(MetricError, match=sentence):
        summarise(sums, n)
