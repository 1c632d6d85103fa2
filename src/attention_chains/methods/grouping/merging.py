"""Iterative merging of attention maps into a few proposals of objects (DiffSeg; protocol 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.methods.grouping.divergence import symmetric_kl


@dataclass(frozen=True)
class Merging:
    """How maps are merged.

    Attributes
    ----------
    tau
        Maps nearer than this symmetric KL are merged; 1.1 on COCO-Stuff.
    iterations
        Rounds of merging, the one around the anchors included.
    precision
        Of the distances from the anchors: "float32", or "float16" as in the official code, where an anchor with a zero
        finds no map, and a map with a zero is found by no anchor. The later rounds are not rounded there either.
    """

    tau: float = 1.1
    iterations: int = 3
    precision: str = "float32"


def merged(tensor: Tensor, anchors: Tensor, merging: Merging = Merging()) -> Tensor:
    """Merge the maps around the anchors, then the means that this gives with each other.

    The first round takes for each anchor the mean of all maps near it. Every later round walks the list in its order:
    a map not yet merged is replaced by the mean of all that are near it, also of those merged before. So the order of
    the anchors matters. An anchor without a near map (see `symmetric_kl`) gives no proposal.

    Parameters
    ----------
    tensor
        (n, n) float32 or float64: row i is the map of token i, a distribution over the tokens.
    anchors
        (K,) int64: tokens, in the order in which they are walked.
    merging
        Threshold, number of rounds and precision.

    Returns
    -------
    Tensor
        (M, n) of the tensor's dtype, M from 0 to K.
    """
    near = symmetric_kl(tensor[anchors], tensor, merging.precision) < merging.tau  # (K, n), False for NaN
    proposals = _means(near[near.any(-1)], tensor)
    for _ in range(merging.iterations - 1):
        near = symmetric_kl(proposals, proposals) < merging.tau  # (M, M)
        proposals = _means(near[_leaders(near)], proposals)
    return proposals


def _leaders(near: Tensor) -> Tensor:
    """Which of M maps, walked in order, are not near one before that leads: long, on the device of `near` (M, M)."""
    free = torch.ones(len(near), dtype=torch.bool)
    leaders = []
    for index, row in enumerate(near.cpu()):  # one small copy: each step hangs on those before
        if free[index] and row.any():
            leaders.append(index)
            free &= ~row
    return torch.tensor(leaders, dtype=torch.long, device=near.device)


def _means(chosen: Tensor, maps: Tensor) -> Tensor:
    """Mean of the chosen maps, for each row of (M, K) bool: (M, n)."""
    weights = chosen.to(maps.dtype)
    return (weights / weights.sum(-1, keepdim=True)) @ maps
