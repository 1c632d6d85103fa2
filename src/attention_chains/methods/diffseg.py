"""DiffSeg: segments of an image from the self-attention of a diffusion model, without a word."""

from __future__ import annotations

from math import isqrt

from torch import Tensor

from attention_chains.methods import uniform_grid
from attention_chains.methods.grouping import Merging, label_map, merged, refined


def segments(
    tensor: Tensor,
    size: tuple[int, int],
    grid: int = 16,
    tau: float = 1.1,
    iterations: int = 3,
    precision: str = "float32",
    refine: bool = False,
) -> Tensor:
    """Segments from anchors on a regular grid (protocol 3.1), for the DiffSeg row of Table 1.

    Parameters
    ----------
    tensor
        (n, n) aggregated attention of a square image, rows sum to one.
    size
        (height, width) of the label map, pixels.
    grid
        Anchors along a side.
    tau, iterations, precision
        See `Merging`.
    refine
        Whether k-means refines the proposals.

    Returns
    -------
    Tensor
        (height, width) int64 labels from 0; what a label stands for is open.
    """
    side = isqrt(len(tensor))
    proposals = merged(tensor, uniform_grid.anchors(tensor, side, grid), Merging(tau, iterations, precision))
    return label_map(refined(tensor, proposals) if refine else proposals, (side, side), size)
