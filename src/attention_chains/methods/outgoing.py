"""Outgoing bounces: who attends to the word, and who attends to those."""

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
    """State after `n` bounces of the chain of the columns (paper, section 4.2); n = 1 is column-select.

    Teleport comes before the columns are normalised, as in the official code (protocol 0.2).
    """
    return attention.mean(heads, stream).teleport(alpha).outgoing().bounce(start, n)  # (B, n_tokens)
