"""Accuracy of linear probes, from which learning rates had each image right (Tables 5 and 6; protocol 5).

The statistics of an image are {"rates": R, "correct": ...}: a 0 or 1 for each of R learning rates, or a list of R for
each layer where every layer has a classifier of its own. As a row they are one vector, R first: so that sums over
images still say where one layer ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.metric import Metric

METRICS = (
    Metric(
        "Acc",
        "accuracy of the linear probe",
        "higher",
        "%",
        "Share of the images that the classifier has right, at the learning rate that is best on these same images (as "
        "in the paper); of one classifier for each layer, the mean over the layers, each at its own best rate.",
    ),
)


def row(stats: Mapping[str, Any]) -> list[float]:
    """One image's statistics as a vector: the number of rates R, then a 0 or 1 for each rate, layer after layer.

    Parameters
    ----------
    stats
        {"rates": R, "correct": R numbers, or for each layer R numbers}.

    Returns
    -------
    list of float
        1 + layers * R entries.

    Raises
    ------
    MetricError
        "correct" does not hold R numbers, or R for every layer.
    """
    rates, correct = stats["rates"], stats["correct"]
    layers = correct if correct and isinstance(correct[0], list | tuple) else [correct]
    if rates < 1 or any(len(layer) != rates for layer in layers):
        raise MetricError(f"A record of {rates} learning rates holds {correct}: give one 0 or 1 for each rate.")
    return [float(rates), *(float(each) for layer in layers for each in layer)]


def summarise(sums: np.ndarray, n: int | np.ndarray) -> dict[str, np.ndarray]:
    """Turn sums of `row` over images into the accuracy in percent.

    The best learning rate is picked on the images that are measured, as in the paper: that is optimistic, by the same
    rule for all methods. A bootstrap that resamples the sums picks anew in each resample.

    Parameters
    ----------
    sums
        (..., 1 + layers * R): sums over n images.
    n
        Number of images; broadcasts against the leading dimensions.

    Returns
    -------
    dict
        "Acc": (...) float64 in [0, 100].

    Raises
    ------
    MetricError
        The sums are no sums of such rows, or over no image.
    """
    return {METRICS[0].name: layer_accuracies(sums, n).mean(-1)}


def layer_accuracies(sums: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Accuracy of each layer at its best learning rate: what Table 9 pairs (protocol 5).

    Parameters
    ----------
    sums, n
        As in `summarise`.

    Returns
    -------
    (..., layers) float64 array
        In percent; one entry where all maps feed one classifier.

    Raises
    ------
    MetricError
        See `summarise`.
    """
    return 100 * _by_layer(sums, n).max(-1) / np.expand_dims(n, -1)


def best_rates(sums: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Which learning rate is best, for each layer: (..., layers) indices; of equal ones the smallest index.

    Raises
    ------
    MetricError
        See `summarise`.
    """
    return _by_layer(sums, n).argmax(-1)


def image_scores(rows: np.ndarray) -> np.ndarray:
    """Each image's share of layers whose best classifier has it right: what a paired test over images compares.

    Parameters
    ----------
    rows
        (n, 1 + layers * R): `row` of each image of one run.

    Returns
    -------
    (n,) float64 array
        0 or 1 where all maps feed one classifier; else multiples of 1 / layers.

    Raises
    ------
    MetricError
        See `summarise`.
    """
    rows = np.asarray(rows, dtype=np.float64)
    chosen = best_rates(rows.sum(0), len(rows))  # (layers,)
    correct = rows[:, 1:].reshape(len(rows), len(chosen), -1)
    return np.take_along_axis(correct, chosen[None, :, None], -1)[..., 0].mean(-1)


def _by_layer(sums: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Numbers of images right, (..., layers, rates)."""
    sums, n = np.asarray(sums, dtype=np.float64), np.asarray(n)
    if np.any(n < 1):
        raise MetricError("A summary of no image was asked for: measure at least one image first.")
    if sums.ndim == 0 or sums.shape[-1] < 2:
        raise MetricError(f"Statistics have shape {sums.shape}: the last dimension holds the rates, then each's count.")
    rates = np.unique(np.round(sums[..., 0] / n, 6))
    if len(rates) != 1 or rates[0] < 1 or (sums.shape[-1] - 1) % rates[0]:
        raise MetricError(
            f"Statistics of {sums.shape[-1] - 1} classifiers cannot be of {', '.join(f'{each:g}' for each in rates)} "
            "learning rates: sum only rows of one method."
        )
    return sums[..., 1:].reshape(*sums.shape[:-1], -1, int(rates[0]))
