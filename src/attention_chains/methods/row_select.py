"""Row-select: the word's own row of the attention matrix, the first incoming bounce."""

from __future__ import annotations

from torch import Tensor

from attention_chains.methods import incoming
from attention_chains.models.joint_attention import JointAttention


def scores(
    attention: JointAttention, start: Tensor, alpha: float = 0.99, heads: str = "lambda2", stream: str = "dual"
) -> Tensor:
    """What the word attends to (paper, section 4.1)."""
    return incoming.scores(attention, start, 1, alpha, heads, stream)
