"""Column-select: the word's column of the attention matrix, the first outgoing bounce."""

from __future__ import annotations

from torch import Tensor

from attention_chains.methods import outgoing
from attention_chains.models.joint_attention import JointAttention


def scores(
    attention: JointAttention, start: Tensor, alpha: float = 0.99, heads: str = "lambda2", stream: str = "dual"
) -> Tensor:
    """What attends to the word, up to a constant (paper, section 4.2)."""
    return outgoing.scores(attention, start, 1, alpha, heads, stream)
