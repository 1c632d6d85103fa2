"""Random row: what a patch drawn at random attends to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int]) -> Tensor:
    """Row of a random patch in the chain without CLS, (B, H, P): one patch for all heads of an image (Table 5)."""
    drawn = [torch.randint(attention.patches, (), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    token = 1 + attention.registers + torch.stack(drawn).to(attention.logits.device, non_blocking=True)
    rows = attention.logits.take_along_dim(token.view(-1, 1, 1, 1), -2).squeeze(-2)  # (B, H, T)
    return attention.of_patches(rows[..., 1:].softmax(-1))
