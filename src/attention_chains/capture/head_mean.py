"""A ready-made reducer: one chain out of the heads of all layers, passes and steps."""

from __future__ import annotations

from typing import Literal

from attention_chains.capture.call import Call
from attention_chains.chain import AttentionChain, RunningMix


class HeadMean:
    """Mean over the heads of all calls, each counting the same or as much as its lambda2 (paper, section 4.4).

    Give it to `capture` as `reduce`. Held are the mean, (B, n, n), and while a call is added its heads, (B, H, n, n).
    It differs from `MeanAttention().chain().mix("lambda2")`, the paper's order, in that each head of each layer and
    step has a lambda2 of its own, instead of the mean of a head over layers and steps.

    Parameters
    ----------
    weights : "uniform" or "lambda2"
        What each head counts.

    Raises
    ------
    ChainError
        If the weights are neither.
    """

    def __init__(self, weights: Literal["uniform", "lambda2"] = "lambda2") -> None:
        self._mix = RunningMix(weights)

    @property
    def count(self) -> int:
        """Number of heads in the mean."""
        return self._mix.count

    def __call__(self, call: Call) -> None:
        """Add the heads of one call.

        Raises
        ------
        CaptureError
            Queries and keys are different tokens.
        ChainError
            Its attention has another shape than that of the calls before, or is no transition matrix.
        """
        self._mix.add(call.chain())

    def chain(self) -> AttentionChain:
        """Read the mean as Markov chains, one for each image, batch (B,).

        Raises
        ------
        ChainError
            No call was added yet, or every head has lambda2 = 0.
        """
        return self._mix.chain()
