"""Weighted means of chains over a batch dimension, such as the heads (paper, section 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.chain import validation
from attention_chains.chain.operators import DenseOperator, Operator, Teleported, matmul
from attention_chains.chain.spectrum import ABSOLUTE_FLOOR, lambda2


def mix(operator: Operator, weights: str | Tensor, dim: int) -> Operator:
    """Average the chains along batch dimension `dim`; see `AttentionChain.mix`."""
    dim = validation.batch_dimension(dim, operator)
    weights = _resolve(weights, dim, operator)
    return _weighted(operator, weights / weights.sum(dim, keepdim=True), dim)


def _resolve(weights: str | Tensor, dim: int, operator: Operator) -> Tensor:
    """Return weights of the operator's batch shape, not normalised."""
    ones = torch.ones(operator.batch_shape, dtype=operator.dtype, device=operator.device)
    if isinstance(weights, str) and weights == "uniform":
        return ones
    if isinstance(weights, str) and weights == "lambda2":
        values = lambda2(operator).to(operator.dtype)
        return torch.where(values.amax(dim, keepdim=True) > ABSOLUTE_FLOOR, values, ones)
    return validation.head_weights(weights, dim, operator)


def _weighted(operator: Operator, weights: Tensor, dim: int) -> Operator:
    """Average with weights that sum to one; a shared alpha stays implicit."""
    if isinstance(operator, Teleported):
        targets = operator.target.expand(*operator.batch_shape, operator.n)
        target = (weights.unsqueeze(-1) * targets).sum(dim)
        return Teleported(_weighted(operator.base, weights, dim), operator.alpha, target)
    heads = operator.dense().movedim(dim, -3).flatten(-2)  # (..., heads, n * n)
    mean = matmul(weights.movedim(dim, -1).unsqueeze(-2), heads)  # (..., 1, n * n)
    return DenseOperator(mean.squeeze(-2).unflatten(-1, (operator.n, operator.n)))
