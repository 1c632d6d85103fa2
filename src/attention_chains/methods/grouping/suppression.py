"""Points of a grid by rank, none near a better one, while there are any (paper, appendix A.3; protocol 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def spaced(order: Tensor, side: int, count: int, distance: float) -> Tensor:
    """Take tokens in order of rank, leaving out those near one taken; then fill up with the best left out.

    Parameters
    ----------
    order
        (side * side,) int64: all tokens of a square grid, the best first.
    side
        Rows, and columns, of the grid.
    count
        How many to take, at most side * side.
    distance
        Least Euclidean distance of two tokens, in cells of the grid, unless nothing else is left.

    Returns
    -------
    Tensor
        (count,) int64 on the device of `order`, as they were taken: first the spaced ones by rank, then the others by
        rank.
    """
    ranked = order.cpu()  # n numbers: each step hangs on those before
    places = torch.stack([ranked // side, ranked % side])  # (2, n)
    allowed = torch.ones(len(ranked), dtype=torch.bool)
    left = torch.ones_like(allowed)
    taken: list[int] = []
    while len(taken) < count and allowed.any():
        best = int(allowed.int().argmax())  # the first that is true
        taken.append(best)
        left[best] = False
        allowed &= left & ((places - places[:, best, None]).square().sum(0) >= distance**2)
    rest = left.nonzero().squeeze(-1)[: count - len(taken)]
    return ranked[torch.cat([torch.tensor(taken, dtype=torch.long), rest])].to(order.device)
