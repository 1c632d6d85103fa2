"""No guidance: the model as it is."""

from __future__ import annotations

from attention_chains.chain import AttentionChain


def saliency(chain: AttentionChain, size: tuple[int, int]) -> None:
    """No token is to be blurred: the plain sampler (paper, Table 2, first row)."""
    return None
