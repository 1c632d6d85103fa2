"""What a multi-modal transformer's attention is handed on as: chains over text and image tokens."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attention_chains.chain import AttentionChain


class JointAttention:
    """The heads' chains over `[text, image]` tokens of a batch of images, averaged over layers and passes.

    Methods read it. What several of them need (a weighted mean of the heads) is computed once.

    Parameters
    ----------
    chains : mapping of str to AttentionChain
        By stream ("dual", "single"): batch (B, heads), n = text + height * width tokens, text first.
    text : int
        Number of text tokens.
    grid : (int, int)
        Height and width of the image in tokens.
    """

    def __init__(self, chains: Mapping[str, AttentionChain], text: int, grid: tuple[int, int]) -> None:
        self._chains, self.text, self.grid = dict(chains), text, grid
        self._mixed: dict[tuple[str, str], AttentionChain] = {}

    @property
    def streams(self) -> tuple[str, ...]:
        """Which streams were captured."""
        return tuple(self._chains)

    def heads(self, stream: str = "dual") -> AttentionChain:
        """Chains of the single heads, batch (B, heads)."""
        return self._chains[stream]

    def mean(self, weights: str = "lambda2", stream: str = "dual") -> AttentionChain:
        """One chain per image, batch (B,): the heads' mean, "uniform" or weighted by "lambda2" (paper, section 4.4)."""
        if (stream, weights) not in self._mixed:
            self._mixed[stream, weights] = self._chains[stream].mix(weights)
        return self._mixed[stream, weights]

    def image_map(self, state: Tensor) -> Tensor:
        """Image part of a state (B, n), row by row: (B, height, width)."""
        return state[:, self.text :].unflatten(-1, self.grid)
