"""From proposals to one label a pixel: non-maximum suppression (DiffSeg; protocol 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_map(proposals: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Index of the strongest proposal at every pixel.

    The proposals grow bilinearly one after the other: at the size of the image, all of them are many times the tensor
    they come from.

    Parameters
    ----------
    proposals
        (M, h * w) float32 or float64, without NaN.
    grid
        (h, w): rows and columns of tokens.
    size
        (height, width) of the label map, pixels.

    Returns
    -------
    Tensor
        (height, width) int64, 0..M - 1; of equal proposals the first wins. Without any proposal all pixels are one
        segment, 0.
    """
    labels = torch.zeros(size, dtype=torch.long, device=proposals.device)
    best = proposals.new_full(size, -torch.inf)
    for index, proposal in enumerate(proposals):
        grown = F.interpolate(proposal.view(1, 1, *grid), size=size, mode="bilinear", align_corners=False)[0, 0]
        labels.masked_fill_(grown > best, index)
        torch.maximum(best, grown, out=best)
    return labels
