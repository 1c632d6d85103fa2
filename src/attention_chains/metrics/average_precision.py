"""Average precision from label counts: exact at ties, in float64, on the device of the scores."""

from __future__ import annotations

import torch
from torch import Tensor


def average_precision(score: Tensor, positives: Tensor, negatives: Tensor) -> float:
    """Sum (recall gained) x (precision) over the thresholds, from the highest score down.

    Thresholds stand at distinct scores: elements of equal score enter together, so their order cannot matter. This is
    scikit-learn's `average_precision_score` of elements repeated `positives` and `negatives` times. torchmetrics'
    `binary_average_precision` has the same definition, but divides in float32 and takes no counts.

    Parameters
    ----------
    score
        (n,) float, finite; equal entries are allowed.
    positives, negatives
        (n,) bool or integer: how many positive and negative elements hold that score (0 is allowed).

    Returns
    -------
    float
        In [0, 1]; 0 without any positive element.
    """
    descending, order = score.sort(descending=True, stable=True)
    last_of_tie = torch.ones_like(descending, dtype=torch.bool)
    last_of_tie[:-1] = descending[1:] != descending[:-1]
    found = positives[order].cumsum(0)[last_of_tie]  # (thresholds,) long
    seen = found + negatives[order].cumsum(0)[last_of_tie]
    gained = found.diff(prepend=found.new_zeros(1))
    precision = found.double() / seen.clamp(min=1)
    return float((gained * precision).sum() / found[-1:].clamp(min=1).sum())


def two_sided_average_precision(score: Tensor, foreground: Tensor, background: Tensor) -> float:
    """Average precision of both classes ranked in one list, as published for ImageNet-Segmentation (protocol 1.2).

    Every pixel counts twice: its `score` against "is foreground", and `1 - score` against "is background".

    Parameters
    ----------
    score
        (n,) float, min-max normalised to [0, 1].
    foreground, background
        (n,) bool or integer: how many foreground and background pixels hold that score.

    Returns
    -------
    float
        In [0, 1].
    """
    both = torch.cat([1 - score, score])
    return average_precision(both, torch.cat([background, foreground]), torch.cat([foreground, background]))
