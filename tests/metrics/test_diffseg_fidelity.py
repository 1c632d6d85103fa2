"""Matching and counting are those of DiffSeg's evaluation: vectors, brute force over all matchings, torchmetrics."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torchmetrics.classification import MulticlassJaccardIndex

from attention_chains.metrics.diffseg import METRICS, measure, row, summarise

COUNTS = ("tp", "fp", "fn", "fp_zg")


@st.composite
def images(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """Segments, labels and how many classes there are; more segments than classes, or fewer."""
    classes = draw(st.integers(1, 4))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    segments = draw(npst.arrays(np.int64, shape, elements=st.integers(0, 4)))
    return segments, draw(npst.arrays(np.int64, shape, elements=st.integers(-1, classes - 1))), classes


def by_every_matching(segments, labels, classes) -> set:
    """Counts of each matching of all classes to distinct segments that agrees on the most pixels."""
    found, most = [], -1
    for chosen in permutations(range(max(classes, segments.max() + 1)), classes):
        counts, gain = [], 0
        for name, segment in enumerate(chosen):
            inside, labelled = (segments == segment) & (labels >= 0), labels == name
            tp = int((inside & labelled).sum())
            fp, fn = int((inside & ~labelled).sum()), int((labelled & ~inside).sum())
            counts.append((tp, fp, fn, fp if tp else 0))
            gain += tp
        found.append((gain, tuple(counts)))
        most = max(most, gain)
    return {counts for gain, counts in found if gain == most}


def summary(*measured):
    return summarise(np.array([row(each) for each in measured]).sum(axis=0), len(measured))


def test_vector_of_the_protocol_sheet():
    label, prediction = [[0, 0, 0, 1, 1, 1, 2, 2, -1, -1]], [[0, 0, 1, 1, 1, 2, 2, 0, 0, 1]]
    measured = measure(np.array(prediction), np.array(label), 3)
    same = [1, 1, 1]
    assert measured == {"tp": [2, 2, 1], "fp": same, "fn": same, "fp_zg": same, "labelled": 8}
    expected = {"Acc": 62.5, "mIoU": 44.444, "mIoU_zg": 44.444}
    assert summary(measured) == pytest.approx(expected, abs=1e-3)


@given(images())
def test_counts_are_those_of_a_best_matching_among_all(image):
    measured = measure(*image)
    assert tuple(zip(*(measured[name] for name in COUNTS), strict=True)) in by_every_matching(*image)
    assert measured["labelled"] == (image[1] >= 0).sum() == sum(measured["tp"]) + sum(measured["fn"])


@given(images(), st.randoms(use_true_random=False))
def test_names_of_segments_do_not_change_what_is_gained(image, random):
    segments, labels, classes = image
    renamed = np.array(random.sample(range(5), 5))[segments]
    one, other = (measure(each, labels, classes) for each in (segments, renamed))
    assert sum(one["tp"]) == sum(other["tp"]) and one["labelled"] == other["labelled"]


def test_left_over_segments_go_to_the_classes_that_scipy_picks_unless_zero_gain_is_ignored():
    """Classes 3 and 20 of 27, and 5 segments: three of them can gain nothing (protocol 3.2, with the pinned SciPy)."""
    labels = np.array([[3] * 6 + [20] * 6])
    measured = measure(np.array([[0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4, 2]]), labels, 27)
    assert np.flatnonzero(measured["tp"]).tolist() == [3, 20]
    assert np.flatnonzero(measured["fp"]).tolist() == [1, 2, 4] and sum(measured["fp"]) == 6
    assert sum(measured["fp_zg"]) == 0 and np.flatnonzero(measured["fn"]).tolist() == [3, 20]
    metrics = summary(measured)
    assert metrics["mIoU"] == pytest.approx(100 * (0.5 + 0.5) / 5)  # three absent classes with IoU 0
    assert metrics["mIoU_zg"] == pytest.approx(50.0) and metrics["Acc"] == pytest.approx(50.0)


def test_segments_beyond_the_number_of_classes_are_counted_as_missed_only():
    measured = measure(np.arange(6).reshape(2, 3), np.array([[0, 0, 0], [1, 1, -1]]), 2)
    assert (measured["tp"], measured["fp"], measured["fn"]) == ([1, 1], [0, 0], [2, 1])


def test_ignored_pixels_do_not_count_whatever_is_predicted_there():
    labels = np.array([[0, 0, 1, -1]])
    one, other = (measure(np.array([[5, 5, 2, last]]), labels, 3) for last in (5, 4))
    assert one == other and one["labelled"] == 3 and sum(one["tp"]) == 3


def test_an_image_without_a_labelled_pixel_adds_nothing():
    empty = measure(np.zeros((3, 3), int), np.full((3, 3), -1), 4)
    assert set(row(empty)) == {0}
    assert all(np.isnan(value) for value in summary(empty).values())
    other = measure(np.eye(3, dtype=int), np.eye(3, dtype=int), 4)
    assert summary(empty, other) == summary(other) == {"Acc": 100.0, "mIoU": 100.0, "mIoU_zg": 100.0}


def test_equals_torchmetrics_where_the_matching_is_plain():
    """Segments are the classes under other names, with a few pixels wrong, so that the matching is known."""
    draw, jaccard, measured, right = np.random.default_rng(0), MulticlassJaccardIndex(6, average="none"), [], 0
    for _ in range(4):
        labels = draw.integers(0, 5, (20, 30))  # class 5 never occurs
        predicted = np.where(draw.random(labels.shape) < 0.2, draw.integers(0, 5, labels.shape), labels)
        measured.append(measure(draw.permutation(6)[predicted], torch.from_numpy(labels), 6))
        jaccard.update(torch.from_numpy(predicted), torch.from_numpy(labels))
        right += (predicted == labels).sum()
    metrics = summary(*measured)
    assert metrics["Acc"] == pytest.approx(100 * right / 2400)
    assert metrics["mIoU"] == pytest.approx(100 * jaccard.compute()[:5].mean().item(), abs=1e-4)
    assert metrics["mIoU_zg"] == metrics["mIoU"]


def test_summaries_are_vectorised_over_leading_dimensions():
    draw = np.random.default_rng(2)
    sums, n = draw.integers(1, 9, (4, 3, 21)).astype(float), draw.integers(1, 9, (4, 3))
    metrics = summarise(sums, n)
    for index in np.ndindex(4, 3):
        alone = summarise(sums[index], n[index])
        assert all(values[index] == pytest.approx(alone[name]) for name, values in metrics.items())


def test_every_metric_introduces_itself():
    metrics = summarise(np.ones(13), 1)
    assert tuple(metrics) == tuple(metric.name for metric in METRICS) == ("Acc", "mIoU", "mIoU_zg")
    assert {(metric.better, metric.unit) for metric in METRICS} == {("higher", "%")}
