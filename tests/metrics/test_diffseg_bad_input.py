"""Segments, labels and statistics that cannot be measured are refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from attention_chains.metrics.diffseg import measure, row, summarise
from attention_chains.metrics.errors import MetricError

MAP = np.zeros((4, 6), np.int64)


@pytest.mark.parametrize(
    ("prediction", "labels", "problem"),
    [
        (MAP.astype(np.float32), MAP, "The segments have shape"),
        (MAP, MAP.astype(bool), "The labels have shape"),
        (MAP[None], MAP, "The segments have shape"),
        (MAP[:0], MAP[:0], "The segments have shape"),
        (MAP, MAP.T, "The segments have shape .* and the labels"),
        (MAP - 1, MAP, "A segment has the number -1"),
        (MAP, MAP + 3, "A label is 3: it must be one of 3 classes"),
        (MAP, MAP - 2, "A label is -2: it must be one of 3 classes"),
    ],
)
def test_maps_that_cannot_be_matched_are_refused(prediction, labels, problem):
    with pytest.raises(MetricError, match=problem):
        measure(prediction, labels, 3)


def test_a_record_must_hold_as_many_counts_of_each_kind():
    with pytest.raises(MetricError, match=r"\[2, 2, 3, 2\]"):
        row({"tp": [1, 2], "fp": [1, 2], "fn": [1, 2, 3], "fp_zg": [1, 2], "labelled": 3})


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 8)])
def test_a_summary_needs_four_counts_a_class(shape):
    with pytest.raises(MetricError, match="must hold 4 counts a class, plus 1"):
        summarise(np.ones(shape), 1)


def test_a_summary_needs_an_image():
    with pytest.raises(MetricError, match="at least one image"):
        summarise(np.zeros((2, 5)), np.array([3, 0]))
