"""Column sum: how much attention a patch gets from all other tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int]) -> Tensor:
    """Column means of the chain without CLS, (B, H, P): one bounce from uniform (paper, section 4.1)."""
    return attention.of_patches(attention.bounced(1))
