"""Centre row: what the central patch attends to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int]) -> Tensor:
    """Row of the central patch in the chain without CLS, (B, H, P) (paper, section 5.2; protocol 4.3)."""
    return attention.row(attention.center)
