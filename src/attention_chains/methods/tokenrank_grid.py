"""Anchors where TokenRank is highest, at a distance from each other."""

from __future__ import annotations

from torch import Tensor

from attention_chains.chain import AttentionChain
from attention_chains.methods.errors import MethodError
from attention_chains.methods.grouping import spaced

SIDE = 64  # of the paper's map, in whose cells the distance is given


def anchors(tensor: Tensor, side: int, grid: int, alpha: float = 0.99, distance: float = 5.0) -> Tensor:
    """Tokens by incoming TokenRank, suppressed near better ones (paper, appendix A.3; protocol 3.3).

    On 64 x 64 tokens a distance of 5 leaves room for about half of 256 anchors; the others are the highest-ranked of
    those left out.

    Parameters
    ----------
    tensor
        (side^2, side^2) aggregated attention, rows sum to one.
    side
        Rows, and columns, of tokens.
    grid
        Its square is the number of anchors.
    alpha
        Teleport: share of the chain that is kept.
    distance
        Least Euclidean distance, in cells of a 64 x 64 map; on another, in proportion to its side.

    Returns
    -------
    Tensor
        (grid^2,) int64, as they were taken.

    Raises
    ------
    MethodError
        There are more anchors than tokens.
    """
    if not 1 <= grid <= side:
        raise MethodError(f"task.grid is {grid}, but there are {side} x {side} tokens: choose from 1 to {side}.")
    rank = AttentionChain(tensor).teleport(alpha).tokenrank()  # (n,)
    return spaced(rank.argsort(descending=True, stable=True), side, grid * grid, distance * side / SIDE)
