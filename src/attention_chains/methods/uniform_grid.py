"""Anchors on a regular grid, as DiffSeg has them."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.methods.errors import MethodError


def anchors(tensor: Tensor, side: int, grid: int) -> Tensor:
    """Tokens of an evenly spaced square grid, row by row (protocol 3.1): at 1, 5, ..., 61 of 64 for a grid of 16.

    Parameters
    ----------
    tensor
        (side^2, side^2) aggregated attention, of which only the device is read.
    side
        Rows, and columns, of tokens.
    grid
        Anchors along a side.

    Returns
    -------
    Tensor
        (grid^2,) int64.

    Raises
    ------
    MethodError
        There are more anchors along a side than tokens.
    """
    if not 1 <= grid <= side:
        raise MethodError(f"task.grid is {grid}, but there are {side} x {side} tokens: choose from 1 to {side}.")
    step = (side - 1) // max(grid - 1, 1)
    margin = (side - 1 - step * (grid - 1)) // 2
    along = margin + step * torch.arange(grid, device=tensor.device)
    return (side * along[:, None] + along).flatten()
