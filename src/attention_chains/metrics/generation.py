"""IS, FID and KID of generated images, by torch-fidelity's own functions on stored features (Table 2; protocol 2).

None of the three is a function of sums over images: they are evaluated on whole sets, and their intervals come from
leaving out a group of images at a time.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kernel_mmd, kernel_poly, kid_features_to_metric

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.metric import Metric

SEED, SPLITS, SUBSETS = 2020, 10, 100  # torch-fidelity's defaults
_ROWS = 2048  # of a kernel matrix held at a time

METRICS = (
    Metric(
        "IS",
        "Inception score",
        "higher",
        "",
        f"exp of the mean KL divergence of an image's class probabilities from their mean; a mean over {SPLITS} parts "
        f"of the shuffled images (seed {SEED}).",
        decimals=2,
    ),
    Metric(
        "FID",
        "Fréchet Inception distance",
        "lower",
        "",
        "Fréchet distance of two normal distributions, fitted to the features of generated and reference images.",
        decimals=2,
    ),
    Metric(
        "KID",
        "kernel Inception distance",
        "lower",
        "",
        f"unbiased squared MMD of the features with the kernel (x.y / d + 1)^3, unscaled; a mean over {SUBSETS} pairs "
        f"of random subsets (seed {SEED}).",
        decimals=4,
    ),
)


def row(stats: Mapping[str, str]) -> np.ndarray:
    """One image's statistics as a vector: its features, then its class logits.

    Parameters
    ----------
    stats
        {"features": ..., "logits": ...}, base64 of little-endian float32, as `tasks.generation` records them.

    Returns
    -------
    (d + classes,) float32

    Raises
    ------
    MetricError
        One of the two is missing, is no such text, or is not finite.
    """
    try:
        parts = [np.frombuffer(base64.b64decode(stats[name], validate=True), "<f4") for name in ("features", "logits")]
    except (LookupError, ValueError, TypeError) as error:
        raise MetricError(
            "A generation record must hold 'features' and 'logits' as base64 of float32; generate that image again."
        ) from error
    vector = np.concatenate(parts)
    if not np.isfinite(vector).all():
        raise MetricError("The features of a generated image are not finite; generate it again.")
    return vector


def evaluate(rows: np.ndarray, reference: np.ndarray, kid_subset: int) -> dict[str, float]:
    """IS, FID and KID of a set of generated images.

    Parameters
    ----------
    rows
        (n, d + classes): `row` of every image, in the order of the sorted ids, on which IS and KID depend.
    reference
        (m, d): features of the reference images.
    kid_subset
        Images in a subset of KID.

    Returns
    -------
    dict
        A float for every name in `METRICS`.

    Raises
    ------
    MetricError
        There are fewer images on one side than in a subset of KID, or features of different width.
    """
    features, logits = split(rows, reference)
    _check_subset(len(rows), len(reference), kid_subset)
    theirs = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32))
    return {
        "IS": isc_features_to_metric(logits, SPLITS, True, SEED)[KEY_METRIC_ISC_MEAN],
        "FID": _fid(features, fid_features_to_statistics(theirs)),
        "KID": _kid(features, theirs, kid_subset),
    }


def leave_out(rows: np.ndarray, reference: np.ndarray, groups: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The metrics without one group of images at a time, for a jackknife.

    What is random in torch-fidelity would be drawn anew for every set that lacks a group, and a jackknife of g groups
    magnifies the variance of such noise g - 1 times. IS therefore keeps the one shuffle of the whole set, and KID is
    its expectation over the subsets: the unbiased squared MMD of all images (up to what the reference alone
    contributes, a constant). The noise of KID's own subsets is in `random_parts`.

    Parameters
    ----------
    rows, reference
        See `evaluate`.
    groups
        Places of the images of each group.

    Returns
    -------
    dict
        For every name in `METRICS` an array (groups,) of float64.
    """
    features, logits = split(rows, reference)
    kept = [np.setdiff1d(np.arange(len(rows)), group) for group in groups]
    theirs = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32))
    statistics = fid_features_to_statistics(theirs)
    return {
        "IS": _scores_without(logits, groups),
        "FID": np.array([_fid(features[each], statistics) for each in kept]),
        "KID": _distances_without(features.numpy(), theirs.numpy(), groups),
    }


def random_parts(rows: np.ndarray, reference: np.ndarray, kid_subset: int) -> dict[str, np.ndarray]:
    """What a metric is the mean of, where that is drawn at random: KID of each pair of subsets.

    Two sets of one size are drawn alike, so that the noise of their difference is that of the draws' differences.

    Parameters
    ----------
    rows, reference, kid_subset
        See `evaluate`.

    Returns
    -------
    dict
        {"KID": (draws,) float64}, whose mean is `evaluate`'s.
    """
    ours, theirs = split(rows, reference)[0].numpy(), np.ascontiguousarray(reference, dtype=np.float32)
    rng, found = np.random.RandomState(SEED), np.empty(SUBSETS)
    for draw in range(SUBSETS):
        first = ours[rng.choice(len(ours), kid_subset, replace=False)]
        found[draw] = kernel_mmd(first, theirs[rng.choice(len(theirs), kid_subset, replace=False)])
    return {"KID": found}


def split(rows: np.ndarray, reference: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, d) and logits (n, classes), float32, of `rows`, with d the width of the reference's features.

    Raises
    ------
    MetricError
        There is no column left for the logits.
    """
    width = reference.shape[1]
    if rows.shape[1] <= width:
        raise MetricError(
            f"Generated images have {rows.shape[1]} numbers each, the reference's features alone {width}: compute both "
            "with one data.extractor."
        )
    whole = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    return whole[:, :width].contiguous(), whole[:, width:].contiguous()


def _check_subset(n: int, reference: int, subset: int) -> None:
    if min(n, reference) < subset:
        raise MetricError(
            f"KID compares subsets of {subset} images, but there are {n} generated and {reference} reference images: "
            "make more, or lower data.kid_subset."
        )


def _fid(features: torch.Tensor, statistics: Mapping[str, np.ndarray]) -> float:
    return fid_statistics_to_metric(fid_features_to_statistics(features), statistics, False)[KEY_METRIC_FID]


def _kid(features: torch.Tensor, reference: torch.Tensor, subset: int) -> float:
    settings = dict(kid_subsets=SUBSETS, kid_subset_size=subset, rng_seed=SEED, verbose=False)
    return kid_features_to_metric(features, reference, **settings)[KEY_METRIC_KID_MEAN]


def _scores_without(logits: torch.Tensor, groups: Sequence[np.ndarray]) -> np.ndarray:
    order = np.random.RandomState(SEED).permutation(len(logits))  # as torch-fidelity shuffles the whole set
    kept = [order[~np.isin(order, group)] for group in groups]
    return np.array([isc_features_to_metric(logits[each], SPLITS, False)[KEY_METRIC_ISC_MEAN] for each in kept])


def _distances_without(ours: np.ndarray, theirs: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Unbiased squared MMD without each group, less the reference's own share: (groups,) float64."""
    n, m = len(ours), len(theirs)
    within, of_group, across = np.zeros(n), np.zeros((n, len(groups))), np.zeros(n)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = kernel_poly(ours[rows], ours).astype(np.float64)
        kernel[np.arange(len(kernel)), np.arange(start, start + len(kernel))] = 0  # no image with itself
        within[rows], across[rows] = kernel.sum(1), kernel_poly(ours[rows], theirs).sum(1, dtype=np.float64)
        of_group[rows] = np.stack([kernel[:, group].sum(1) for group in groups], 1)
    found = []
    for number, group in enumerate(groups):
        left = n - len(group)
        pairs = within.sum() - 2 * within[group].sum() + of_group[group, number].sum()
        found.append(pairs / (left * (left - 1)) - 2 * (across.sum() - across[group].sum()) / (left * m))
    return np.array(found)
