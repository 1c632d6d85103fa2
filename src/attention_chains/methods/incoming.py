"""Incoming bounces: where the word's attention goes, and where it goes from there."""

from __future__ import annotations

from torch import Tensor

from attention_chains.models.joint_attention import JointAttention


def scores(
    attention: JointAttention,
    start: Tensor,
    n: int = 2,
    alpha: float = 0.99,
    heads: str = "lambda2",
    stream: str = "dual",
) -> Tensor:
    """State after `n` bounces of the chain as it is, `v A^n` (paper, section 4.1); n = 1 is row-select."""
    return attention.mean(heads, stream).teleport(alpha).bounce(start, n)  # (B, n_tokens)
