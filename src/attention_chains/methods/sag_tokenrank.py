"""Self-attention guidance by TokenRank instead of column sums (paper, section 5.3)."""

from __future__ import annotations

from torch import Tensor

from attention_chains.chain import AttentionChain


def saliency(chain: AttentionChain, size: tuple[int, int], alpha: float = 0.99) -> Tensor:
    """Incoming TokenRank of the mean head times n, (B, n) fp32 of mean 1 (paper, section 5.3; protocol 2).

    Parameters
    ----------
    chain
        Mean over the heads of one self-attention layer, batch (B,), n tokens.
    size
        Height and width of the tokens, for which TokenRank has no use.
    alpha
        Share of the bounces that follow the chain, the rest is uniform.
    """
    return chain.n * chain.teleport(alpha).tokenrank()
