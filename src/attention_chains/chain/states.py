"""Where a walk starts: token indices, "uniform" and distributions, as states (..., n)."""

from __future__ import annotations

from typing import SupportsIndex

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attention_chains.chain import validation
from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import Operator

Start = SupportsIndex | str | Tensor


def uniform(operator: Operator, dtype: torch.dtype | None = None) -> Tensor:
    """Return the uniform distribution, (*batch_shape, n), in the operator's own type or another."""
    shape = (*operator.batch_shape, operator.n)
    return torch.full(shape, 1 / operator.n, dtype=dtype or operator.dtype, device=operator.device)


def initial(start: Start, operator: Operator) -> Tensor:
    """Return the state (..., n) that `start` names, expanded over the operator's batch dimensions."""
    if isinstance(start, str):
        if start != "uniform":
            raise ChainError(f'start must be a token index, "uniform" or a distribution over the tokens, got {start!r}')
        return uniform(operator)
    if isinstance(start, Tensor) and start.is_floating_point():
        state = validation.distribution(start, "start", operator)
    else:
        state = one_hot(_indices(start, operator), operator.n).to(operator.dtype)
    shape = torch.broadcast_shapes(state.shape[:-1], operator.batch_shape)
    return state.expand(*shape, operator.n).contiguous()  # not one memory for many states


def _indices(start: SupportsIndex | Tensor, operator: Operator) -> Tensor:
    if isinstance(start, SupportsIndex) and not isinstance(start, (bool, Tensor)):
        start = torch.tensor(int(start))
    if not isinstance(start, Tensor) or start.dtype not in validation.INTEGERS:
        kind = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise ChainError(f'start must be a token index, "uniform" or a distribution over the tokens, got {kind}')
    validation.fits(start.shape, "start", operator)
    return validation.token_indices(start.to(operator.device), "start", operator.n)
