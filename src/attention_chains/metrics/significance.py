"""Tests of paired measurements: the paper's Wilcoxon test (Table 9) and, image by image, sign tests with effect sizes.

The paper's test pairs few numbers (five seeds, or the layers), so that its smallest possible p is 1 / 2^n. The images
are thousands of pairs: there a test is sharp, and what counts is how large the effect is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from attention_chains.metrics.errors import MetricError

LEVEL = 0.95
_DECIMALS = 9  # round-off in a mean is no difference, and breaks no tie


@dataclass(frozen=True)
class Wilcoxon:
    """A one-sided Wilcoxon signed-rank test.

    Attributes
    ----------
    statistic : float
        Sum of the ranks of the positive differences; n (n + 1) / 2 when all of them are.
    p : float
        Chance of a statistic at least as large if neither side were the greater; exact for n up to 50 without ties.
    n : int
        Number of pairs.
    equal : int
        How many of them are equal, and therefore left out of the ranks.
    """

    statistic: float
    p: float
    n: int
    equal: int


@dataclass(frozen=True)
class SignTest:
    """A one-sided exact sign test over images; on 0 and 1 it is McNemar's exact test.

    Attributes
    ----------
    wins, losses : int
        Images on which the first, or the second, is the greater: the discordant ones.
    n : int
        Number of images.
    p : float
        Chance of at least so many wins among the discordant images, if a win were as likely as a loss.
    cohens_g : float
        wins / (wins + losses) - 1/2, in [-1/2, 1/2]; 0.05, 0.15 and 0.25 count as small, medium and large. 0 without a
        discordant image.
    odds_ratio : float
        wins / losses: infinite without a loss, NaN without a discordant image.
    low, high : float
        Ends of its 95 % interval (Clopper and Pearson's of the share of wins, as odds); 0 and infinity where nothing
        is known.
    """

    wins: int
    losses: int
    n: int
    p: float
    cohens_g: float
    odds_ratio: float
    low: float
    high: float


def wilcoxon(first: ArrayLike, second: ArrayLike) -> Wilcoxon:
    """Test whether `first` is greater than `second`, pair by pair (paper, Table 9; protocol 5).

    Parameters
    ----------
    first, second
        (n,) paired numbers, such as the accuracies of two methods by layer or by seed.

    Returns
    -------
    Wilcoxon
        With p = 1 and statistic 0 where all pairs are equal: nothing speaks for a difference.

    Raises
    ------
    MetricError
        They are no pairs of finite numbers.
    """
    difference = _differences(first, second)
    equal = int((difference == 0).sum())
    if equal == len(difference):
        return Wilcoxon(0.0, 1.0, len(difference), equal)
    found = stats.wilcoxon(difference, alternative="greater")
    return Wilcoxon(float(found.statistic), float(found.pvalue), len(difference), equal)


def sign_test(first: ArrayLike, second: ArrayLike) -> SignTest:
    """Test on how many images `first` is greater than `second`, and measure by how much the odds differ.

    Parameters
    ----------
    first, second
        (n,) one number per image: right or wrong as 1 or 0, or the share of seeds or layers that had it right.

    Returns
    -------
    SignTest

    Raises
    ------
    MetricError
        They are no pairs of finite numbers.
    """
    difference = _differences(first, second)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    if wins + losses == 0:
        return SignTest(0, 0, len(difference), 1.0, 0.0, float("nan"), 0.0, float("inf"))
    test = stats.binomtest(wins, wins + losses, 0.5, alternative="greater")
    share = stats.binomtest(wins, wins + losses, 0.5).proportion_ci(LEVEL, "exact")
    return SignTest(
        wins=wins,
        losses=losses,
        n=len(difference),
        p=float(test.pvalue),
        cohens_g=wins / (wins + losses) - 0.5,
        odds_ratio=wins / losses if losses else float("inf"),
        low=_odds(share.low),
        high=_odds(share.high),
    )


def _odds(share: float) -> float:
    return float(share / (1 - share)) if share < 1 else float("inf")


def _differences(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise MetricError(
            f"A paired test needs two lists of equal length, got shapes {first.shape} and {second.shape}: pass one "
            "number of each side for every pair."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise MetricError("A paired test was given numbers that are not finite: recompute what they come from.")
    return np.round(first - second, _DECIMALS)
