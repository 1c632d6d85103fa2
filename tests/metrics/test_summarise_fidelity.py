"""`summarise` gives the published metrics: torchmetrics, the stacked channels, the rows of Table 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import BinaryAccuracy, MulticlassJaccardIndex

from attention_chains.metrics.segmentation import FIELDS, METRICS, measure, summarise


def summary(*measurements):
    rows = np.array([[measured[field] for field in FIELDS] for measured in measurements], dtype=np.float64)
    return summarise(rows.sum(axis=0), len(rows))


def stacked_channel_iou(predicted, label):
    """IoU of the two values of the stacked channels (1 - m, m), without argmax, as a histogram of entries."""
    prediction = np.stack([1 - predicted, predicted]).astype(int).flatten()
    truth = np.stack([1 - label, label]).astype(int).flatten()
    ious = []
    for value in (0, 1):
        intersection = np.sum((prediction == value) & (truth == value))
        ious.append(intersection / (np.sum(prediction == value) + np.sum(truth == value) - intersection))
    return np.mean(ious)


def test_equals_torchmetrics_accumulated_over_images():
    rng = np.random.default_rng(1)
    accuracy, jaccard, measurements = BinaryAccuracy(), MulticlassJaccardIndex(num_classes=2, average="macro"), []
    for share in (0.1, 0.3, 0.9):
        predicted, label = (torch.tensor(rng.random((20, 30)) < share) for _ in range(2))
        measurements.append(measure(predicted.float(), label, size=(20, 30)))  # above its mean, a mask is itself
        accuracy.update(predicted.long(), label.long())
        jaccard.update(predicted.long(), label.long())
    metrics = summary(*measurements)
    assert metrics["Acc"] == pytest.approx(100 * accuracy.compute().item(), abs=1e-4)
    assert metrics["mIoU"] == pytest.approx(100 * jaccard.compute().item(), abs=1e-4)


def test_vector_of_the_protocol_sheet():
    metrics = summary({"tn": 3, "fp": 0, "fn": 1, "tp": 2, "ap": 0.88333, "fg_ap": 0.91667})
    expected = {"Acc": 83.333, "mIoU": 70.833, "mIoU_ca": 71.429, "mAP": 88.333, "fgAP": 91.667}
    assert metrics == pytest.approx(expected, abs=1e-3)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_miou_ca_is_the_iou_of_stacked_channels(pixels):
    predicted, label = np.array(pixels).T
    counts = np.bincount(2 * label + predicted, minlength=4)  # tn, fp, fn, tp
    metrics = summarise(np.array([*counts, 0, 0]), 1)
    assert metrics["mIoU_ca"] == pytest.approx(100 * stacked_channel_iou(predicted, label), abs=1e-9)


@pytest.mark.parametrize(
    ("accuracy", "miou"),
    [(81.97, 69.44), (78.47, 64.56), (74.92, 59.90), (83.07, 71.04)],
    ids=["DINO Attention", "DAAM", "FLUX Cross Attention", "Concept Attention"],
)
def test_four_rows_of_table_1_are_miou_ca_of_their_accuracy(accuracy, miou):
    right = accuracy * 1e6
    metrics = summarise(np.array([right, 1e8 - right, 0, 0, 0, 0]), 1)
    assert metrics["mIoU_ca"] == pytest.approx(miou, abs=0.011)


def test_ious_come_from_summed_counts_and_average_precisions_from_images():
    small = {"tn": 0, "fp": 5, "fn": 0, "tp": 5, "ap": 0.2, "fg_ap": 0.4}
    large = {"tn": 80, "fp": 0, "fn": 0, "tp": 10, "ap": 0.8, "fg_ap": 0.5}
    metrics = summary(small, large)
    assert metrics["Acc"] == pytest.approx(95.0)
    assert metrics["mIoU"] == pytest.approx(100 * (80 / 85 + 15 / 20) / 2)  # not the mean of (0 + 1/2) / 2 and 1
    assert metrics["mAP"] == pytest.approx(50.0)
    assert metrics["fgAP"] == pytest.approx(45.0)


def test_a_class_that_never_occurs_has_iou_zero():
    metrics = summarise(np.array([10, 0, 0, 0, 0, 0]), 1)
    assert (metrics["Acc"], metrics["mIoU"]) == (100.0, 50.0)


def test_summaries_are_vectorised_over_leading_dimensions():
    rng = np.random.default_rng(2)
    sums, n = rng.integers(1, 100, (4, 3, len(FIELDS))).astype(float), rng.integers(1, 9, (4, 3))
    metrics = summarise(sums, n)
    for index in np.ndindex(4, 3):
        assert {name: values[index] for name, values in metrics.items()} == summarise(sums[index], n[index])


def test_every_metric_introduces_itself():
    metrics = summarise(np.ones(len(FIELDS)), 1)
    assert tuple(metrics) == tuple(metric.name for metric in METRICS) == ("Acc", "mIoU", "mIoU_ca", "mAP", "fgAP")
    assert {(metric.better, metric.unit) for metric in METRICS} == {("higher", "%")}
