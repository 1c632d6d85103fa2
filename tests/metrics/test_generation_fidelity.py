"""IS, FID and KID are what their definitions say, and what torch-fidelity gives with its defaults."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.special import log_softmax, softmax

from attention_chains.metrics import MetricError, of
from attention_chains.metrics.generation import METRICS, evaluate, leave_out, random_parts, row

D, CLASSES = 5, 4


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(0.3, 1.1, (40, D + CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (60, D)).astype(np.float32)


def inception_score(logits: np.ndarray, order: np.ndarray, splits: int = 10) -> float:
    """By hand: the shuffled images in ten parts."""
    p, log_p = softmax(logits[order].astype(float), 1), log_softmax(logits[order].astype(float), 1)
    parts = [slice(i * len(p) // splits, (i + 1) * len(p) // splits) for i in range(splits)]
    return float(np.mean([np.exp((p[s] * (log_p[s] - np.log(p[s].mean(0)))).sum(1).mean()) for s in parts]))


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """By hand, with the matrix root."""
    a, b = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real))


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """By hand, unbiased: all pairs of different images, one by one."""
    kernel = lambda a, b: (float(a @ b) / D + 1) ** 3  # noqa: E731
    same = [
        np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
        for z in (x.astype(float), y.astype(float))
    ]
    return float(sum(same) - 2 * np.mean([kernel(a, b) for a in x.astype(float) for b in y.astype(float)]))


def test_the_three_metrics_are_those_of_their_definitions(rows, reference) -> None:
    order = np.random.RandomState(2020).permutation(len(rows))
    theirs = reference[: len(rows)]  # then every subset is the whole of both
    found = evaluate(rows, theirs, kid_subset=len(rows))
    assert found["IS"] == pytest.approx(inception_score(rows[:, D:], order), rel=1e-9)
    assert found["FID"] == pytest.approx(frechet(rows[:, :D], theirs), rel=1e-4)
    assert found["KID"] == pytest.approx(mmd(rows[:, :D], theirs), rel=1e-4)
    assert set(found) == {metric.name for metric in METRICS}


def test_kid_is_a_mean_over_subsets_drawn_from_one_seed(rows, reference) -> None:
    rng, subset = np.random.RandomState(2020), 12
    ours, theirs = rows[:, :D], reference
    drawn = []
    for _ in range(100):
        first = ours[rng.choice(len(ours), subset, replace=False)]
        drawn.append(mmd(first, theirs[rng.choice(len(theirs), subset, replace=False)]))
    assert evaluate(rows, reference, subset)["KID"] == pytest.approx(np.mean(drawn), rel=1e-4)
    np.testing.assert_allclose(random_parts(rows, reference, subset)["KID"], drawn, atol=1e-5)


def test_without_a_group_the_metrics_are_those_of_the_other_images(rows, reference) -> None:
    groups = np.array_split(np.arange(len(rows)), 7)
    found = leave_out(rows, reference, groups)
    order = np.random.RandomState(2020).permutation(len(rows))
    theirs = mmd(reference, reference) + 2 * np.mean((reference.astype(float) @ reference.T / D + 1) ** 3)
    own = theirs / 2  # the reference's own mean over pairs, which the jackknife leaves out as a constant
    for number, group in enumerate(groups):
        kept = np.delete(rows, group, 0)
        assert found["FID"][number] == pytest.approx(frechet(kept[:, :D], reference), rel=1e-4)
        assert found["KID"][number] + own == pytest.approx(mmd(kept[:, :D], reference), abs=1e-4)
        assert found["IS"][number] == pytest.approx(
            inception_score(rows[:, D:], order[~np.isin(order, group)]), rel=1e-9
        )


def test_a_large_set_is_taken_in_parts(rows, reference, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.array_split(np.arange(len(rows)), 3)
    whole = leave_out(rows, reference, groups)["KID"]
    monkeypatch.setattr("attention_chains.metrics.generation._ROWS", 7)
    np.testing.assert_allclose(leave_out(rows, reference, groups)["KID"], whole, rtol=1e-10)


def packed(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def test_a_record_is_read_as_features_then_logits(rows) -> None:
    stats = {"features": packed(rows[0, :D]), "logits": packed(rows[0, D:]), "masked": 0.3}
    np.testing.assert_array_equal(row(stats), rows[0])
    assert of("generation").row is row


@pytest.mark.parametrize(
    "stats",
    [
        {},
        {"features": "no base64!", "logits": packed(np.ones(2))},
        {"features": packed(np.ones(2))[:-3], "logits": packed(np.ones(2))},
        {"features": packed(np.array([1, np.nan])), "logits": packed(np.ones(2))},
    ],
)
def test_a_record_without_usable_vectors_is_refused(stats) -> None:
    with pytest.raises(MetricError, match="generate"):
        row(stats)


def test_fewer_images_than_a_subset_of_kid_are_refused(rows, reference) -> None:
    with pytest.raises(MetricError, match=r"subsets of 41 images, but there are 40 generated and 60 reference images"):
        evaluate(rows, reference, 41)
    with pytest.raises(MetricError, match="there are 40 generated and 30 reference"):
        evaluate(rows, reference[:30], 31)


def test_features_of_another_extractor_are_refused(rows) -> None:
    with pytest.raises(MetricError, match=r"9 numbers each, the reference's features alone 9: .*data\.extractor"):
        evaluate(rows, np.ones((50, D + CLASSES), np.float32), 10)
