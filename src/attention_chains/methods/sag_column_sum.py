"""Self-attention guidance as it was published: what gets more attention than the mean token is blurred."""

from __future__ import annotations

from torch import Tensor

from attention_chains.chain import AttentionChain


def saliency(chain: AttentionChain, size: tuple[int, int]) -> Tensor:
    """Column sums of the mean head, (B, n) fp32 of mean 1: `n` times one bounce from uniform (protocol 2, step 3).

    Parameters
    ----------
    chain
        Mean over the heads of one self-attention layer, batch (B,), n tokens.
    size
        Height and width of the tokens, for which column sums have no use.
    """
    return chain.n * chain.bounce("uniform")
