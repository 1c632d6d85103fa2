"""TokenRank: the stationary vector of the patches' chain, or what comes near it after a fixed number of bounces."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attention_chains.models.patch_attention import PatchAttention


def ranking(attention: PatchAttention, seeds: Sequence[int], power: int | None = None, alpha: float = 0.99) -> Tensor:
    """Incoming TokenRank of the patches, (B, H, P) (paper, sections 4.3 and 5.5; protocols 0.2 and 4.2).

    Parameters
    ----------
    attention, seeds
        One block's attention, and a seed of each image, for which a chain has no use.
    power
        Bounces from uniform without teleport, which is the mean row of A^power; 20 in the authors' code. None: the
        stationary vector of the chain teleported with `alpha`, certified to 1e-5 in L1.
    alpha
        Share of the bounces that follow the chain; without effect under a `power`.
    """
    if power is None:
        return attention.of_patches(attention.chain.teleport(alpha).tokenrank())
    return attention.of_patches(attention.bounced(power))
