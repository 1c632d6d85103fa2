"""Segments without a name, measured as foreground and background (Table 1, DiffSeg; protocol 9, row 11)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attention_chains.metrics.average_precision import average_precision, two_sided_average_precision
from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.segmentation import resized_label, shown_entries


@torch.no_grad()
def measure_segments(
    segments: Tensor | np.ndarray, mask: Tensor | np.ndarray, size: int | tuple[int, int] = 224
) -> dict[str, int | float]:
    """Measure the grouping of an image's segments into foreground and background that fits the mask best.

    A segment is foreground if more of its pixels lie in the mask than outside: no other grouping into two has a higher
    accuracy. That looks at the mask, so it is an upper bound; the paper does not say how it measured DiffSeg, and this
    is our reading. The two average precisions are those of a map of zeros and ones.

    Parameters
    ----------
    segments
        (h, w) int64 from 0: the segment of each pixel; enlarged or reduced with nearest neighbour.
    mask
        (H, W) of any size, nonzero is foreground; resized as in `segmentation.measure`.
    size
        Side of the square, or (height, width), at which pixels are compared.

    Returns
    -------
    dict
        The keys of `segmentation.FIELDS`, as `segmentation.measure` gives them.

    Raises
    ------
    MetricError
        The segments are no map of integers from 0, or the mask is not two-dimensional.
    """
    target = (size, size) if isinstance(size, int) else tuple(size)
    segments = _checked(segments)
    shown = segments.flatten()[shown_entries(segments, target)].flatten()  # (pixels,)
    label = resized_label(mask, target).flatten()
    kinds = int(shown.max()) + 1
    inside, outside = (torch.bincount(shown[part], minlength=kinds) for part in (label, ~label))  # (segments,) each
    foreground = inside > outside
    fn, tp = (int(inside[chosen].sum()) for chosen in (~foreground, foreground))
    tn, fp = (int(outside[chosen].sum()) for chosen in (~foreground, foreground))
    score, positives, negatives = torch.tensor([0.0, 1.0]), torch.tensor([fn, tp]), torch.tensor([tn, fp])
    return {
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
        "ap": two_sided_average_precision(score, positives, negatives),
        "fg_ap": average_precision(score, positives, negatives),
    }


def _checked(segments: Tensor | np.ndarray) -> Tensor:
    segments = segments.cpu() if isinstance(segments, Tensor) else torch.from_numpy(np.asarray(segments))
    if segments.ndim != 2 or segments.numel() == 0 or segments.is_floating_point() or segments.min() < 0:
        raise MetricError(
            f"Segments have shape {tuple(segments.shape)} of {segments.dtype}: pass one map (H, W) of integers from 0."
        )
    return segments.long()
