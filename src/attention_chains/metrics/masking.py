"""Metrics of token masking, Table 4 and Figures 7 to 9, from the right answers of each image (protocol 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.metric import Metric

METRICS = (
    Metric(
        "AUC",
        "area under the accuracy",
        "lower",
        "",
        "Area under accuracy / clean accuracy over the fraction of patches masked, from 0 to 1, by the trapezoid rule.",
    ),
    Metric("Clean", "clean accuracy", "higher", "%", "Share of the images that are classified right, nothing masked."),
)


def row(stats: Mapping[str, Sequence[int]]) -> list[float]:
    """One image's statistics as a vector: 0 or 1 for each fraction, from nothing masked to all.

    Parameters
    ----------
    stats
        {"correct": 0 or 1 for each fraction}, as `tasks.masking` records it.

    Raises
    ------
    MetricError
        A statistic is neither 0 nor 1, or there is none.
    """
    correct = stats.get("correct", ())
    if not correct or any(value not in (0, 1) for value in correct):
        raise MetricError(f"A masking record must hold 0 or 1 for each fraction as 'correct', got {stats}.")
    return [float(value) for value in correct]


def summarise(sums: np.ndarray, n: int | np.ndarray) -> dict[str, np.ndarray]:
    """Turn sums over the images of a data set into its metrics.

    Accuracies [.8, .6, .4, .2, 0] have the AUC .5 (protocol 4.2).

    Parameters
    ----------
    sums
        (..., F): right answers at F evenly spaced fractions from 0 to 1.
    n
        Number of images in the sums; broadcasts against the leading dimensions.

    Returns
    -------
    dict
        For every name in `METRICS` an array (...) of float64: "AUC", 0 or more and NaN where no clean answer is right;
        "Clean" in percent.

    Raises
    ------
    MetricError
        There are fewer than two fractions, or a sum is over no image.
    """
    relative = curve(sums)
    if np.any(np.asarray(n) < 1):
        raise MetricError("A summary of no image was asked for: measure at least one image first.")
    clean = np.asarray(sums, dtype=np.float64)[..., 0] / n
    steps = relative.shape[-1] - 1
    area = (relative[..., 1:] + relative[..., :-1]).sum(-1) / (2 * steps)
    return {"AUC": area, "Clean": 100 * clean}


def curve(sums: np.ndarray) -> np.ndarray:
    """Accuracy over clean accuracy at each fraction, the curves of Figure 7.

    Parameters
    ----------
    sums
        (..., F): right answers at F evenly spaced fractions from 0 to 1.

    Returns
    -------
    array
        (..., F) float64, 1 at fraction 0; NaN where no clean answer is right.

    Raises
    ------
    MetricError
        There are fewer than two fractions.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if sums.ndim == 0 or sums.shape[-1] < 2:
        raise MetricError(f"Right answers have shape {sums.shape}: the last dimension must hold two fractions or more.")
    clean = sums[..., :1]
    return np.divide(sums, clean, out=np.full_like(sums, np.nan), where=clean > 0)
