"""Shares of the masked tokens: how many of them each head masks (paper, appendix E.2; Fig. 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention

BUDGETS = ("uniform", "random", "lambda2")
NO_WEIGHT = 1e-9  # of the heaviest head: what is lighter counts as this


def head_weights(budget: str, attention: PatchAttention, seed: int) -> Tensor:
    """Weight of every head of a layer, for each image: (B, H).

    Parameters
    ----------
    budget
        "uniform"; "random": U(0, 1), the same for all images (protocol 9, question 32); "lambda2": of the image's own
        chain without CLS (protocol 9, question 29).
    attention
        One layer's, (B, H, T, T).
    seed
        Of the layer's draw, which is made on the host.
    """
    if budget == "lambda2":
        return attention.chain.lambda2()
    images, heads = attention.logits.shape[:2]
    if budget == "uniform":
        return attention.logits.new_ones(images, heads)
    drawn = torch.rand(heads, generator=torch.Generator().manual_seed(seed))
    return drawn.to(attention.logits.device, non_blocking=True).expand(images, heads)


def split(total: Tensor, weights: Tensor, most: int) -> Tensor:
    """Split totals over heads in proportion to weights, no head above `most` (protocol 4.2).

    What a full head cannot take goes to the others, in proportion to their weights again; the shares are rounded by
    largest remainders, of equal ones the first heads'. Nothing is read back to the host.

    Parameters
    ----------
    total
        (...,) long, from 0 to H * most.
    weights
        (..., H), not negative; heads of no weight, or less than 1e-9 of the heaviest, get only what no other can take.
        Broadcasts against `total`.
    most
        Tokens that a head can mask.

    Returns
    -------
    Tensor
        (..., H) long, each from 0 to `most`; the sum over the heads is exactly `total`.
    """
    share, full = _capped(total.unsqueeze(-1), weights, most)
    whole = share.floor().long()
    left = total.unsqueeze(-1) - whole.sum(-1, keepdim=True)
    remainder = torch.where(full, -1, share - whole)  # a full head takes no more
    return whole + (places(remainder) < left)


def _capped(total: Tensor, weights: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Proportional shares (..., H), float, with the heaviest heads cut to `most`, and which heads those are."""
    dtype = torch.float32 if weights.device.type == "mps" else torch.float64
    weights = weights.to(dtype)
    heaviest = weights.amax(-1, keepdim=True)
    weights = torch.where(heaviest > 0, weights / heaviest, 1.0).clamp(min=NO_WEIGHT)  # so that someone takes the rest
    falling = weights.sort(-1, descending=True).values
    behind = falling.flip(-1).cumsum(-1).flip(-1)  # of a head and all lighter ones
    ahead = torch.arange(weights.shape[-1], device=weights.device)
    rate = (total - ahead * most) / behind  # per weight, if the heads ahead are full
    fits = rate * falling <= most * (1 + 1e-9)
    rate = rate.gather(-1, fits.int().argmax(-1, keepdim=True))  # the fewest full heads that will do
    share = (rate * weights).clamp(max=most)
    return share, share >= most


def places(scores: Tensor) -> Tensor:
    """Place of every entry of (..., n) from the highest score, 0, down; of equal ones the first comes first."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
