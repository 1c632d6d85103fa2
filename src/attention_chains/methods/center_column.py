"""Centre column: which patches attend to the central one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int]) -> Tensor:
    """Column of the central patch in the chain without CLS, (B, H, P) (paper, section 5.5; protocol 4.3)."""
    cut = attention.logits[..., 1:, 1:]
    column = cut[..., attention.registers + attention.center] - cut.logsumexp(-1)  # a softmax of nothing else
    return attention.of_patches(column.exp())
