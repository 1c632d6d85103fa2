"""Segmentation without class names, Table 3: segments are matched to classes image by image (protocol 3.2).

A match gains the pixels that segment and class share. Where an image has fewer classes than there are classes at all,
the segments left over are matched to absent classes and gain nothing, but count there as wrong; which absent class
takes which segment is the solver's choice, SciPy's. "mIoU" is that published protocol; "mIoU_zg" ignores matches of
zero gain (protocol 9, row 19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.metric import Metric

FIELDS = ("tp", "fp", "fn", "fp_zg")  # each a count for every class; `labelled` follows them
METRICS = (
    Metric(
        "Acc",
        "pixel accuracy of matched segments (mACC in the paper)",
        "higher",
        "%",
        "Share of all labelled pixels of the data set whose segment is matched to their class.",
    ),
    Metric(
        "mIoU",
        "mean intersection over union of matched segments",
        "higher",
        "%",
        "Mean over the classes that occur of TP / (TP + FP + FN), each summed over the data set; a segment matched to "
        "an absent class is wrong there.",
    ),
    Metric(
        "mIoU_zg",
        "mIoU without the matches of zero gain",
        "higher",
        "%",
        "As mIoU, but a segment is wrong nowhere if it shares no pixel with its class: that does not depend on which "
        "absent class the solver picks.",
    ),
)


def measure(prediction: np.ndarray | Tensor, labels: np.ndarray | Tensor, classes: int) -> dict[str, list[int] | int]:
    """Match the segments of one image to classes so that as many pixels as possible agree, and count.

    Parameters
    ----------
    prediction
        (H, W) integers from 0: the segment of each pixel. Of more segments than classes, some stay without a match.
    labels
        (H, W) integers: the class of each pixel, or -1, which is not measured.
    classes
        How many classes there are, in the image or not.

    Returns
    -------
    dict
        "tp", "fp", "fn", "fp_zg": `classes` pixel counts each; "labelled": pixels that have a class. "fp_zg" leaves
        out matches of zero gain; "fn" is the same with and without them.

    Raises
    ------
    MetricError
        The two are no maps of integers of one shape, or a number is out of range.
    """
    prediction, labels = _checked(prediction, labels, classes)
    shared = _histogram(prediction, labels, classes)  # (classes, segments)
    of_class, segment = linear_sum_assignment(shared, maximize=True)  # every class, in order, and its segment
    tp = shared[of_class, segment]
    fp = shared.sum(0)[segment] - tp
    counts = (tp, fp, shared.sum(1) - tp, np.where(tp > 0, fp, 0))
    return {name: count.tolist() for name, count in zip(FIELDS, counts, strict=True)} | {"labelled": int(shared.sum())}


def row(stats: Mapping[str, Sequence[int] | int]) -> list[int]:
    """One image's statistics (`measure`) as a vector: the counts of `FIELDS`, class by class, then "labelled".

    Raises
    ------
    MetricError
        The counts are not of one number of classes.
    """
    counts = [list(stats[field]) for field in FIELDS]
    if len({len(each) for each in counts}) != 1:
        raise MetricError(f"A record holds counts of {[len(each) for each in counts]} classes: they must be as many.")
    return [*(count for each in counts for count in each), stats["labelled"]]


def summarise(sums: np.ndarray, n: int | np.ndarray) -> dict[str, np.ndarray]:
    """Turn sums over the images of a data set into its metrics, in percent.

    Parameters
    ----------
    sums
        (..., 4 classes + 1): sums over images of `row`.
    n
        Number of images in the sums; broadcasts against the leading dimensions.

    Returns
    -------
    dict
        For every name in `METRICS` an array (...) of float64 in [0, 100]; NaN where no pixel is labelled. A class
        without any pixel, labelled or predicted, is left out of the means.

    Raises
    ------
    MetricError
        The last dimension is no such row, or a sum is over no image.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if sums.ndim == 0 or sums.shape[-1] < 5 or sums.shape[-1] % 4 != 1:
        raise MetricError(f"Statistics have shape {sums.shape}: the last dimension must hold 4 counts a class, plus 1.")
    if np.any(np.asarray(n) < 1):
        raise MetricError("A summary of no image was asked for: measure at least one image first.")
    counts = sums[..., :-1].reshape(*sums.shape[:-1], len(FIELDS), -1)
    tp, fp, fn, fp_zg = np.moveaxis(counts, -2, 0)  # (..., classes) each
    accuracy = _share(tp.sum(-1), sums[..., -1])
    ious = _share(tp, tp + fp + fn), _share(tp, tp + fp_zg + fn)
    return {"Acc": 100 * accuracy, **{m.name: 100 * _mean(iou) for m, iou in zip(METRICS[1:], ious, strict=True)}}


def _checked(
    prediction: np.ndarray | Tensor, labels: np.ndarray | Tensor, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both as (H, W) int64 on the host."""
    both = [np.asarray(each.cpu() if isinstance(each, Tensor) else each) for each in (prediction, labels)]
    for name, each in zip(("segments", "labels"), both, strict=True):
        if each.dtype.kind not in "iu" or each.ndim != 2 or each.size == 0:
            raise MetricError(f"The {name} have shape {each.shape} of {each.dtype}: pass one map (H, W) of integers.")
    prediction, labels = (each.astype(np.int64) for each in both)
    if prediction.shape != labels.shape:
        raise MetricError(f"The segments have shape {prediction.shape} and the labels {labels.shape}: resize one.")
    if prediction.min() < 0:
        raise MetricError(f"A segment has the number {prediction.min()}: number segments from 0.")
    if labels.min() < -1 or labels.max() >= classes:
        odd = labels.max() if labels.max() >= classes else labels.min()
        raise MetricError(f"A label is {odd}: it must be one of {classes} classes, from 0, or -1 for no class.")
    return prediction, labels


def _histogram(prediction: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels that a class and a segment share: (classes, segments), at least as many columns as rows."""
    segments = max(classes, int(prediction.max()) + 1)
    labelled = labels >= 0
    joint = labels[labelled] * segments + prediction[labelled]
    return np.bincount(joint, minlength=classes * segments).reshape(classes, segments)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _mean(ious: np.ndarray) -> np.ndarray:
    """Mean over the classes whose IoU is a number; NaN where none is."""
    known = np.isfinite(ious)
    return _share(np.where(known, ious, 0.0).sum(-1), known.sum(-1).astype(np.float64))
