"""Percentile bootstrap over images: intervals of data-set statistics, and of their paired differences.

A data-set statistic (accuracy, mIoU, mean AP ...) is a function of sums over images. A resample of the images is then a
row of multinomial counts, and all resampled sums are one matrix product: no image is ever copied. The counts depend on
the number of images and the seed alone, so two methods on the same images are resampled alike, and their difference is
paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 256  # resamples converted to float64 at a time

Statistic = Callable[[np.ndarray, int], np.ndarray]
"""`statistic(sums, n)`: sums over n images, (..., k) or (..., runs, k) -> (...)."""


@dataclass(frozen=True)
class Interval:
    """A statistic with its percentile interval.

    Attributes
    ----------
    value : float
        The statistic on the images as they are.
    low, high : float
        Ends of the interval; NaN for fewer than two images.
    positive : float
        Share of the resamples in which the statistic is above zero, in [0, 1]; ties count one half. For a difference,
        this is the bootstrap confidence in its sign.
    """

    value: float
    low: float
    high: float
    positive: float


def resampled_sums(per_image: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sums over resampled images.

    Parameters
    ----------
    per_image : (n, ..., k) array
        Sufficient statistics of each image, in an order that does not depend on how they were computed (sort by id).
    resamples : int
        Number of resamples B, each of n images drawn with replacement.
    seed : int
        Seed of the draws.

    Returns
    -------
    (B, ..., k) float64 array

    Raises
    ------
    ValueError
        Without images, or with a statistic that is not finite.
    """
    rows = _checked(per_image).reshape(len(per_image), -1)
    counts = _counts(len(rows), resamples, seed)
    blocks = [counts[start : start + _BLOCK].astype(np.float64) @ rows for start in range(0, resamples, _BLOCK)]
    return np.concatenate(blocks).reshape(resamples, *per_image.shape[1:])


def interval(
    per_image: np.ndarray, statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Interval of a data-set statistic.

    Parameters
    ----------
    per_image : (n, ..., k) array
        See `resampled_sums`.
    statistic : callable
        `statistic(sums, n)` with sums (..., k), or (..., runs, k) when the images carry several runs, vectorised over
        leading dimensions.
    resamples, seed : int
        See `resampled_sums`.
    level : float
        Coverage aimed at, in (0, 1).

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        See `resampled_sums`.
    """
    draws = statistic(resampled_sums(per_image, resamples, seed), len(per_image))  # (B,)
    return _percentile_interval(_observed(per_image, statistic), draws, len(per_image), level)


def paired_interval(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Statistic,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Interval of statistic(first) - statistic(second), both on the same resampled images.

    What two methods share on an image (its difficulty) cancels: this is narrower than two separate intervals suggest.

    Parameters
    ----------
    first, second : (n, ..., k) arrays
        Row i of both belongs to the same image; see `resampled_sums`.
    statistic, resamples, seed, level
        See `interval`.

    Returns
    -------
    Interval
        Its `positive` is the share of resamples in which `first` is the greater.

    Raises
    ------
    ValueError
        When the two hold different numbers of images; see also `resampled_sums`.
    """
    if len(first) != len(second):
        raise ValueError(
            f"Paired statistics need the same images, got {len(first)} and {len(second)}; pass matching rows."
        )
    n = len(first)
    value = _observed(first, statistic) - _observed(second, statistic)
    draws = [statistic(resampled_sums(side, resamples, seed), n) for side in (first, second)]
    return _percentile_interval(value, draws[0] - draws[1], n, level)


def _observed(per_image: np.ndarray, statistic: Statistic) -> float:
    return float(statistic(_checked(per_image).sum(axis=0), len(per_image)))


def _percentile_interval(value: float, draws: np.ndarray, n: int, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if n > 1 else (np.nan, np.nan)
    positive = np.mean((np.sign(draws) + 1) / 2)
    return Interval(value, float(low), float(high), float(positive))


@lru_cache(maxsize=1)  # every cell of a table asks for the same counts
def _counts(n: int, resamples: int, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return draws.astype(np.uint16)  # how often one image is drawn: far below 65 536


def _checked(per_image: np.ndarray) -> np.ndarray:
    if len(per_image) == 0:
        raise ValueError("A bootstrap needs at least one image, got none; run the experiment first.")
    if not np.isfinite(per_image).all():
        image = int(np.argwhere(~np.isfinite(per_image))[0][0])
        raise ValueError(f"The statistics of image {image} are not finite; recompute its record.")
    return np.asarray(per_image, dtype=np.float64)
