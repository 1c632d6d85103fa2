"""The tests of Table 9: scipy's numbers, hand-computed ones, and the paper's own."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.significance import sign_test, wilcoxon

RIGHT = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


def by_hand(differences: list[float]) -> tuple[float, float]:
    """Rank sum of the positive differences, and the share of all 2^n sign patterns that reach it."""
    order = sorted(differences, key=abs)
    rank = {value: place + 1 for place, value in enumerate(order)}
    statistic = sum(rank[value] for value in differences if value > 0)
    n = len(differences)
    reached = sum(
        sum(place + 1 for place in range(n) if signs[place]) >= statistic for signs in product((0, 1), repeat=n)
    )
    return float(statistic), float(Fraction(reached, 2**n))


@pytest.mark.parametrize(
    ("differences", "statistic", "p"),
    [
        ([1, 2, 3, 4, 5], 15, 0.031),  # five seeds, all positive
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 45, 0.002),
        ([-1, -2, 3, 4, 5, 6, 7, 8, 9], 42, 0.010),  # negative ranks sum to 3
    ],
)
def test_the_papers_statistics_and_what_they_must_have_come_from(differences, statistic, p):
    found = wilcoxon(differences, np.zeros(len(differences)))
    assert (found.statistic, found.n, found.equal) == (statistic, len(differences), 0)
    assert round(found.p, 3) == p
    assert by_hand(differences) == (found.statistic, pytest.approx(found.p, rel=1e-12))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9, unique=True), st.integers(0, 511))
def test_wilcoxon_is_the_exact_count_of_sign_patterns(sizes, signs):
    differences = [size if signs >> place & 1 else -size for place, size in enumerate(sizes)]
    found = wilcoxon(differences, [0] * len(differences))
    assert (found.statistic, found.p) == (by_hand(differences)[0], pytest.approx(by_hand(differences)[1]))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=30))
def test_wilcoxon_is_scipys_with_ties_and_equal_pairs_too(pairs):
    first, second = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found = wilcoxon(first, second)
    assert found.equal == (first == second).sum() and found.n == len(pairs)
    if found.equal < found.n:
        expected = stats.wilcoxon(first, second, alternative="greater")
        assert (found.statistic, found.p) == (expected.statistic, pytest.approx(expected.pvalue))


def test_pairs_that_are_all_equal_speak_for_nothing():
    assert vars(wilcoxon([1.0, 2.0], [1.0, 2.0])) == {"statistic": 0.0, "p": 1.0, "n": 2, "equal": 2}
    found = sign_test([1, 0, 1], [1, 0, 1])
    assert (found.wins, found.losses, found.p, found.cohens_g) == (0, 0, 1.0, 0.0)
    assert math.isnan(found.odds_ratio) and (found.low, found.high) == (0, math.inf)


def test_round_off_is_no_difference():
    third = [0.1 + 0.2, 1.0, 5.0]
    assert wilcoxon(third, [0.3, 1.0, 4.0]).equal == 2
    assert sign_test(third, [0.3, 1.0, 4.0]).wins == 1


def test_mcnemar_by_hand():
    first = [1] * 8 + [0] * 2 + [1] * 5 + [0] * 5  # 8 images only the first has right, 2 only the second
    second = [0] * 8 + [1] * 2 + [1] * 5 + [0] * 5
    found = sign_test(first, second)
    assert (found.wins, found.losses, found.n) == (8, 2, 20)
    assert found.p == pytest.approx((45 + 10 + 1) / 1024)  # at least 8 heads of 10
    assert found.cohens_g == pytest.approx(0.3) and found.odds_ratio == 4
    share = stats.beta.ppf([0.025, 0.975], [8, 9], [3, 2])  # Clopper and Pearson
    assert (found.low, found.high) == pytest.approx(tuple(share / (1 - share)))


@given(RIGHT)
def test_the_sign_test_is_scipys_binomial_on_the_discordant_images(pairs):
    first, second = zip(*pairs, strict=True)
    found, other = sign_test(first, second), sign_test(second, first)
    wins, losses = pairs.count((1, 0)), pairs.count((0, 1))
    assert (found.wins, found.losses, found.n) == (wins, losses, len(pairs))
    assert (other.wins, other.losses, other.cohens_g) == (losses, wins, pytest.approx(-found.cohens_g))
    if wins + losses:
        assert found.p == pytest.approx(stats.binom.sf(wins - 1, wins + losses, 0.5))
        assert found.low <= found.odds_ratio <= found.high


def test_a_one_sided_success_has_infinite_odds():
    found = sign_test([1, 1, 1], [0, 0, 0])
    assert found.odds_ratio == found.high == math.inf and found.cohens_g == 0.5 and found.p == 0.125


@pytest.mark.parametrize("test", [wilcoxon, sign_test])
@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([1, 2], [1], "two lists of equal length"),
        ([], [], "two lists of equal length"),
        ([[1.0]], [[2.0]], "two lists of equal length"),
        ([math.nan], [1.0], "not finite"),
    ],
)
def test_what_is_no_pairs_is_refused(test, first, second, sentence):
    with pytest.raises(MetricError, match=sentence):
        test(first, second)
