"""Segmentation metrics of Tables 1, 7 and 8, from sufficient statistics of each image (protocol 1.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attention_chains.metrics.average_precision import average_precision, two_sided_average_precision
from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.metric import Metric

FIELDS = ("tn", "fp", "fn", "tp", "ap", "fg_ap")
PROTOCOLS = ("ca", "te")
METRICS = (
    Metric("Acc", "pixel accuracy", "higher", "%", "Share of all pixels of the data set that are labelled right."),
    Metric(
        "mIoU",
        "mean intersection over union",
        "higher",
        "%",
        "Mean over background and foreground of intersection / union, each summed over the data set.",
    ),
    Metric(
        "mIoU_ca",
        "mIoU as four rows of Table 1 have it",
        "higher",
        "%",
        "Both channels compared without argmax, which equals Acc / (2 - Acc); not comparable with mIoU.",
    ),
    Metric(
        "mAP",
        "mean two-sided average precision",
        "higher",
        "%",
        "Mean over images of the average precision of (1 - score, score) against (background, foreground).",
    ),
    Metric(
        "fgAP",
        "mean foreground average precision",
        "higher",
        "%",
        "Mean over images of the average precision of the score against the foreground alone.",
    ),
)
_GRID = 2.0**-40  # of a map's range: interpolation noise near 0 must not order pixels, and float32 would keep it
_EPS = np.spacing(1.0)  # 2.2e-16, in the denominators of protocol 1.2


@torch.no_grad()
def measure(
    score: Tensor | np.ndarray,
    mask: Tensor | np.ndarray,
    protocol: str = "ca",
    size: int | tuple[int, int] = 224,
) -> dict[str, int | float]:
    """Measure one image: counts of right and wrong pixels, and two average precisions.

    The two protocols differ in when the map grows to `size`. "ca" thresholds at the map's own resolution and
    enlarges with nearest neighbour afterwards; "te" enlarges bilinearly first. In both, a pixel is foreground
    where the score is strictly above the map's mean, and average precision ranks the min-max normalised map.
    All is computed in float64 on the map's device; normalised scores are rounded to float32 before they are
    compared with their mean or ranked. That is the precision of both published evaluations, and noise below it
    decides no tie (the two-sided average precision depends on which scores tie).

    Parameters
    ----------
    score
        (h, w), any float dtype, any range: higher is more foreground. A constant map says nothing: no pixel of it is
        foreground and its two-sided average precision is 0.5.
    mask
        (H, W) of any size, nonzero is foreground. It is resized on the host with Pillow's nearest neighbour, as
        in both published evaluations (for some sizes torch picks other pixels).
    protocol
        "ca" or "te" (protocol 1.2).
    size
        Side of the square, or (height, width), at which pixels are compared.

    Returns
    -------
    dict
        The keys `FIELDS`: "tn", "fp", "fn", "tp" are pixel counts that add up to the compared area; "ap"
        (two-sided) and "fg_ap" are in [0, 1]. "fg_ap" is 0 where no foreground pixel is left at `size`.

    Raises
    ------
    MetricError
        For an unknown protocol, a map or mask that is not two-dimensional, an infinite score, or (in "ca") a
        NaN. In "te" a map with a NaN counts as constant: its minimum is NaN, hence all of the normalised map,
        and NaN is set to 0.
    """
    target = (size, size) if isinstance(size, int) else tuple(size)
    score = _checked_score(score, protocol)  # (h, w) float64
    if protocol == "te":
        score = F.interpolate(score[None, None], size=target, mode="bilinear", align_corners=False)[0, 0]
    normal = _min_max(score)
    mean, normal = normal.mean().float(), normal.float()
    level, level_of_entry = normal.flatten().unique(return_inverse=True)  # (levels,) ascending, (h * w,)

    shown = shown_entries(normal, target)  # (height, width) long
    label = resized_label(mask, target).to(score.device)  # (height, width) bool
    background, foreground = _label_counts(level_of_entry[shown], label, len(level))  # (levels,) each
    return {
        **_confusion((normal > mean).flatten()[shown], label),
        "ap": two_sided_average_precision(level, foreground, background),
        "fg_ap": average_precision(level, foreground, background),
    }


def row(stats: Mapping[str, int | float]) -> list[int | float]:
    """One image's statistics (`measure`) as a vector, in the order of `FIELDS`."""
    return [stats[field] for field in FIELDS]


def summarise(sums: np.ndarray, n: int | np.ndarray) -> dict[str, np.ndarray]:
    """Turn sums over the images of a data set into its metrics, in percent (protocol 1.2).

    "mIoU" is the mean of tn / (tn + fp + fn) and tp / (tp + fp + fn).

    "mIoU_ca" is the ConceptAttention evaluation, which stacks a mask m as the channels (1 - m, m) and compares
    prediction and label entry by entry. Over N pixels, prediction and label then hold N zeros and N ones each,
    whatever they are. With R = tn + tp right pixels, R entries agree on one and R agree on zero, so either
    "class" has intersection R and union N + N - R, and both IoUs are R / (2N - R) = Acc / (2 - Acc).

    Parameters
    ----------
    sums
        (..., 6): sums over images of the statistics in the order of `FIELDS`.
    n
        Number of images in the sums; broadcasts against the leading dimensions.

    Returns
    -------
    dict
        For every name in `METRICS`, in that order, an array (...) of float64 in [0, 100].

    Raises
    ------
    MetricError
        When the last dimension does not match `FIELDS`, or a sum is over no image.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if sums.ndim == 0 or sums.shape[-1] != len(FIELDS):
        raise MetricError(f"Statistics have shape {sums.shape}: the last dimension must hold {', '.join(FIELDS)}.")
    if np.any(np.asarray(n) < 1):
        raise MetricError("A summary of no image was asked for: measure at least one image first.")
    tn, fp, fn, tp, ap, fg_ap = np.moveaxis(sums, -1, 0)
    accuracy = (tn + tp) / (tn + fp + fn + tp + _EPS)
    class_ious = tn / (tn + fp + fn + _EPS), tp / (tp + fp + fn + _EPS)
    values = (accuracy, sum(class_ious) / 2, accuracy / (2 - accuracy), ap / n, fg_ap / n)
    return {metric.name: 100 * value for metric, value in zip(METRICS, values, strict=True)}


def _checked_score(score: Tensor | np.ndarray, protocol: str) -> Tensor:
    """Return the map in float64, as zeros if it is constant: rounding must not make structure of nothing."""
    if protocol not in PROTOCOLS:
        raise MetricError(f"The threshold protocol is '{protocol}': choose one of {', '.join(PROTOCOLS)}.")
    score = score if isinstance(score, Tensor) else torch.tensor(score)
    if score.ndim != 2 or score.numel() == 0:
        raise MetricError(f"A score map has shape {tuple(score.shape)}: pass one map (h, w) at a time.")
    score = (score.cpu() if score.device.type == "mps" else score).double()  # MPS has no float64
    if score.isinf().any():
        raise MetricError("A score map holds infinite values: check the method that made it.")
    if not score.isnan().any():
        return score if score.max() > score.min() else torch.zeros_like(score)
    if protocol == "te":
        return torch.zeros_like(score)
    raise MetricError("A score map holds NaN: check the method that made it (protocol 'te' counts it as constant).")


def resized_label(mask: Tensor | np.ndarray, target: tuple[int, int]) -> Tensor:
    """Return the mask at `target` (height, width): bool, on the host."""
    foreground = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask) != 0
    if foreground.ndim != 2 or foreground.size == 0:
        raise MetricError(f"A mask has shape {foreground.shape}: pass one mask (H, W) at a time.")
    resized = Image.fromarray(foreground.astype(np.uint8)).resize(target[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized)).bool()


def shown_entries(score: Tensor, target: tuple[int, int]) -> Tensor:
    """Flat index of the map entry that each pixel of `target` shows under nearest-neighbour enlargement."""
    entries = torch.arange(score.numel(), dtype=torch.float64, device=score.device).view(1, 1, *score.shape)
    return F.interpolate(entries, size=target, mode="nearest")[0, 0].long()


def _min_max(score: Tensor) -> Tensor:
    """Scores in [0, 1]; 0.5 everywhere for a constant map, so that both of its sides rank alike."""
    low, high = score.min(), score.max()
    normal = (score - low) / (high - low) if high > low else torch.full_like(score, 0.5)
    return (normal / _GRID).round() * _GRID


def _label_counts(level: Tensor, label: Tensor, levels: int) -> Tensor:
    """How many background and foreground pixels show each level: (2, levels) long."""
    return torch.bincount((level + levels * label).flatten(), minlength=2 * levels).view(2, levels)


def _confusion(predicted: Tensor, label: Tensor) -> dict[str, int]:
    from torchmetrics.functional.classification import binary_stat_scores  # slow to import, and no table needs it

    tp, fp, tn, fn, _ = binary_stat_scores(predicted.int(), label.int(), validate_args=False).tolist()
    return {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
