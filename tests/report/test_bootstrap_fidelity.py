"""The bootstrap gives scipy's percentile interval, the same bits twice, and pairs what belongs together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from attention_chains.report.bootstrap import interval, paired_interval, resampled_sums


def ratio(sums: np.ndarray, n: int) -> np.ndarray:
    """A statistic of sums that is no mean of per-image values, as mIoU is none."""
    return sums[..., 0] / sums[..., 1]


def images(n: int = 80, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.gamma(2, 1, n), rng.gamma(5, 1, n)], axis=1)


def test_the_interval_is_scipys_percentile_interval() -> None:
    per_image = images()
    ours = interval(per_image, ratio, resamples=20_000)
    theirs = stats.bootstrap(
        (per_image[:, 0], per_image[:, 1]),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.value == pytest.approx(per_image[:, 0].sum() / per_image[:, 1].sum(), rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=2e-3)  # Monte Carlo error of 20 000 draws


def test_resampled_sums_are_sums_over_images_drawn_with_replacement() -> None:
    ones = np.ones((7, 1))
    assert (resampled_sums(ones, resamples=50) == 7).all()
    one_hot = np.eye(7)
    counts = resampled_sums(one_hot, resamples=4000)
    assert (counts == counts.round()).all() and (counts.sum(1) == 7).all()
    assert counts.mean(0) == pytest.approx(np.ones(7), abs=0.1)
    assert counts.var(0) == pytest.approx(np.full(7, 6 / 7), abs=0.12)  # multinomial: n p (1 - p)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    found = [interval(rng.normal(1.0, 1.0, (60, 1)), lambda s, n: s[..., 0] / n, resamples=400) for _ in range(300)]
    covered = np.mean([each.low <= 1.0 <= each.high for each in found])
    assert 0.90 <= covered <= 0.98


def test_the_same_images_give_the_same_bits() -> None:
    assert interval(images(), ratio) == interval(images(), ratio)


def test_pairing_removes_what_the_methods_share() -> None:
    rng = np.random.default_rng(5)
    difficulty, gain = rng.normal(0, 10, 100), rng.normal(1, 0.5, 100)
    first, second = (difficulty + gain)[:, None], difficulty[:, None]
    mean = lambda sums, n: sums[..., 0] / n  # noqa: E731
    paired, alone = paired_interval(first, second, mean), interval(first, mean)
    assert paired.low > 0 and paired.positive == 1.0
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_one_image_has_no_interval() -> None:
    single = interval(images(1), ratio)
    assert np.isnan(single.low) and np.isnan(single.high) and np.isfinite(single.value)


@pytest.mark.parametrize("per_image", [np.empty((0, 2)), np.array([[1.0, np.nan]])], ids=["no image", "nan"])
def test_what_cannot_be_resampled_is_refused(per_image: np.ndarray) -> None:
    with pytest.raises(ValueError):
        interval(per_image, ratio)
