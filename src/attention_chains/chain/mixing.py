"""Weighted means of chains over a batch dimension, such as the heads (paper, section 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.chain import validation
from attention_chains.chain.derived import Averaged, Teleported
from attention_chains.chain.operators import DenseOperator, Operator
from attention_chains.chain.spectrum import ABSOLUTE_FLOOR, lambda2


def mix(operator: Operator, weights: str | Tensor, dim: int) -> Operator:
    """Average the chains along batch dimension `dim`; see `AttentionChain.mix`."""
    dim = validation.batch_dimension(dim, operator)
    weights = _resolve(weights, dim, operator)
    weights = weights / weights.amax(dim, keepdim=True)  # their sum could overflow
    return _weighted(operator, weights / weights.sum(dim, keepdim=True), dim)


def _resolve(weights: str | Tensor, dim: int, operator: Operator) -> Tensor:
    """Return weights of the operator's batch shape, not normalised."""
    if isinstance(weights, str) and weights == "uniform":
        return ones(operator)
    if isinstance(weights, str) and weights == "lambda2":
        values = lambda2_weights(operator)
        return torch.where(values.amax(dim, keepdim=True) > 0, values, ones(operator))
    return validation.head_weights(weights, dim, operator)


def _weighted(operator: Operator, weights: Tensor, dim: int) -> Operator:
    """Average with weights that sum to one; a shared alpha stays implicit."""
    if isinstance(operator, Teleported):
        targets = operator.target.expand(*operator.batch_shape, operator.n)
        target = (weights.unsqueeze(-1) * targets).sum(dim)
        return Teleported(_weighted(operator.base, weights, dim), operator.alpha, target)
    if operator.matrix_free:
        return Averaged(operator, weights, dim)
    total = empty_sum(operator, dim)
    add_to(total, operator, weights, dim)
    return DenseOperator.normalising(total)


def lambda2_weights(operator: Operator) -> Tensor:
    """Return lambda2 of each chain, of the batch shape, nothing but round-off being zero."""
    values = lambda2(operator).to(operator.dtype)
    return values.masked_fill(values <= ABSOLUTE_FLOOR, 0)


def ones(operator: Operator) -> Tensor:
    """Return equal weights, of the batch shape."""
    return torch.ones(operator.batch_shape, dtype=operator.dtype, device=operator.device)


@torch.inference_mode(False)
def empty_sum(operator: Operator, dim: int) -> Tensor:
    """Return zeros for a sum along batch dimension `dim`, (*rest of batch_shape, n, n).

    They are ordinary tensors even under inference_mode, so that a running sum can go on outside of it.
    """
    shape = operator.batch_shape
    rest = (*shape[:dim], *shape[dim + 1 :], operator.n, operator.n)
    return torch.zeros(rest, dtype=operator.dtype, device=operator.device)


def add_to(total: Tensor, operator: Operator, weights: Tensor, dim: int) -> None:
    """Add weight times matrix in place, chain after chain: nothing but the sum is held."""
    for index in range(weights.shape[dim]):
        weight, chain = weights.select(dim, index).unsqueeze(-1), operator.select(dim, index)
        if isinstance(chain, DenseOperator):
            total.addcmul_(chain.matrix, (weight * chain.scale).to(total.dtype).unsqueeze(-1))
        else:
            total.addcmul_(chain.dense(), weight.unsqueeze(-1))
