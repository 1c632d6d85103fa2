"""Random order: every patch as likely to come first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int]) -> Tensor:
    """A random permutation of 0 to P - 1 for each head, (B, H, P) (protocol 4.3).

    Drawn on the host from each image's seed, so that neither batch nor device changes it: images of one seed, such as
    the copies of an image of which more and more is masked, have one order.
    """
    heads = attention.logits.shape[1]
    drawn = {seed: _permutations(seed, heads, attention.patches) for seed in dict.fromkeys(seeds)}
    places = torch.stack([drawn[seed] for seed in seeds]).to(attention.logits.dtype)
    return places.to(attention.logits.device, non_blocking=True)


def _permutations(seed: int, heads: int, patches: int) -> Tensor:
    draws = torch.rand(heads, patches, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draws.argsort(-1)
