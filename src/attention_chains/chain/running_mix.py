"""The mean of chains that come one batch at a time: layer after layer, step after step (paper, section 4.4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attention_chains.chain import mixing, validation
from attention_chains.chain.attention_chain import AttentionChain
from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import DenseOperator


class RunningMix:
    """`AttentionChain.mix` over chains that are never held together, such as the heads of many layers and steps.

    Held is one running sum, (..., n, n), in the type of the first chain, without gradients. Every chain added counts
    once ("uniform") or as much as its lambda2, so that adding all chains at once or one by one is the same. Only where
    every lambda2 is zero there is no mean, rather than the uniform one that `AttentionChain.mix` falls back to.

    Parameters
    ----------
    weights : "uniform" or "lambda2"
        What each chain counts.

    Attributes
    ----------
    count : int
        Number of chains in the mean, along the averaged dimension.

    Raises
    ------
    ChainError
        If the weights are neither.

    Examples
    --------
    >>> import torch
    >>> from attention_chains.chain import AttentionChain, RunningMix
    >>> heads = AttentionChain(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.7, 0.3], [0.2, 0.8]]]))
    >>> mean = RunningMix("lambda2")
    >>> mean.add(heads)  # lambda2 of the two: 1 and 0.5
    >>> mean.chain().matrix()
    tensor([[0.9000, 0.1000],
            [0.0667, 0.9333]])
    """

    def __init__(self, weights: Literal["uniform", "lambda2"] = "uniform") -> None:
        self.weights = validation.named_weights(weights)
        self.count = 0
        self._sum: Tensor | None = None
        self._total = torch.zeros(())  # the sum of the weights, of the remaining batch shape
        self._lent = False  # whether a chain reads the sum

    @torch.no_grad()
    def add(self, chain: AttentionChain, dim: int = -1) -> None:
        """Add the chains along one batch dimension.

        Parameters
        ----------
        chain : AttentionChain
            Such as all heads of one layer, (..., heads, n, n).
        dim : int
            Which batch dimension to average, as in `AttentionChain.mix`.

        Raises
        ------
        ChainError
            If it is no chain, there is no such dimension, or the others differ from those of the chains before.
        """
        validation.a_chain(chain, AttentionChain)
        operator = chain._operator
        dim = validation.batch_dimension(dim, operator)
        weights = mixing.lambda2_weights(operator) if self.weights == "lambda2" else mixing.ones(operator)
        if self._sum is None:
            self._sum = mixing.empty_sum(operator, dim)
        validation.same_sum(self._sum, weights.sum(dim), operator)
        if self._lent:
            self._sum, self._lent = self._sum.clone(), False
        mixing.add_to(self._sum, operator, weights, dim)
        self._total = self._total + weights.sum(dim)
        self.count += weights.shape[dim]

    def chain(self) -> AttentionChain:
        """Return the mean so far, without copying it; what is added later does not change it.

        Raises
        ------
        ChainError
            If nothing was added yet, or every chain added has lambda2 = 0 and weighs nothing.
        """
        if self._sum is None:
            raise ChainError("the mean is empty: add a chain first")
        validation.weighed(self._total)
        self._lent = True
        return AttentionChain._over(DenseOperator.normalising(self._sum))
