"""CLS row: what the classification token attends to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int]) -> Tensor:
    """Row of CLS in the full attention, its part over the patches, (B, H, P) (paper, section 5.5; protocol 4.3)."""
    return attention.of_patches(attention.logits[..., 0, :].softmax(-1))
