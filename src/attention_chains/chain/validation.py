"""Checks of what comes in: each returns the value, checked and ready to use, or raises `ChainError`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from operator import index as as_index
from typing import SupportsIndex

import torch
from torch import Tensor

from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import Operator, normalised, row_sums

# How far a sum may be from one: a few roundings of the narrow types, what float32 work leaves in the wide ones.
SUM_TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-4, torch.float64: 1e-5}
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def transition_matrix(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Check a row-stochastic (..., n, n) of any float type; return it in float32 or float64, and its rows' sums."""
    _square(matrix, "attention")
    wide = _wide(matrix)
    sums = row_sums(wide)
    if not (wide.detach().amin(-1) >= 0).all() or not sums.isfinite().all():  # two passes, and no n x n of flags
        _no_entry(~wide.isfinite(), wide, "attention", "look for overflow, or for a query with every key masked")
        _no_entry(
            wide < 0, wide, "attention", "pass attention after the softmax, or scores to AttentionChain.from_scores"
        )
    _rows_sum_to_one(sums, SUM_TOLERANCE[matrix.dtype])
    return wide, sums


def scores(logits: Tensor) -> Tensor:
    """Check attention logits (..., n, n), -inf where a key is masked; return them in float32 or float64."""
    _square(logits, "scores")
    wide = _wide(logits)
    masked = wide == -math.inf
    _no_entry(
        ~wide.isfinite() & ~masked, wide, "scores", "only -inf, which masks a key, is allowed beside finite numbers"
    )
    if (lost := masked.all(-1)).any():
        raise ChainError(f"scores {_row(_first(lost))} is -inf at every token: leave it a key to attend to, or drop it")
    return wide


def state(values: Tensor, name: str, operator: Operator) -> Tensor:
    """Check a state (..., n) of floats that fits the operator's batch; return it in the operator's type and device."""
    if not isinstance(values, Tensor) or values.dtype not in SUM_TOLERANCE:
        raise ChainError(f"{name} must be a tensor of floats over the tokens, got {_kind(values)}")
    if values.ndim == 0 or values.shape[-1] != operator.n:
        raise ChainError(
            f"{name} has shape {tuple(values.shape)}, but its last dimension must be the {operator.n} tokens"
        )
    fits(values.shape[:-1], name, operator)
    return values.to(device=operator.device, dtype=operator.dtype)


def distribution(values: Tensor, name: str, operator: Operator) -> Tensor:
    """Check a distribution (..., n): a state that is finite, not negative and sums to one; return it summing to one."""
    checked = state(values, name, operator)
    _no_entry(~checked.isfinite() | (checked < 0), checked, name, "a distribution is finite and not negative")
    off = checked.sum(-1) - 1
    if (off.abs() > SUM_TOLERANCE[values.dtype]).any():
        worst = off.flatten()[off.abs().argmax()].item()
        raise ChainError(f"{name} sums to {1 + worst:.6g}, off by {abs(worst):.3g}: divide it by its sum")
    return normalised(checked)


def target(values: Tensor, operator: Operator) -> Tensor:
    """Check where teleport lands: a distribution without batch dimensions that the operator lacks."""
    checked = distribution(values, "teleport target", operator)
    if torch.broadcast_shapes(checked.shape[:-1], operator.batch_shape) != operator.batch_shape:
        raise ChainError(
            f"teleport target has batch dimensions {tuple(checked.shape[:-1])}, but the chain has only "
            f"{tuple(operator.batch_shape)}"
        )
    return checked


def token_indices(indices: Tensor, name: str, n: int) -> Tensor:
    """Check that every integer names one of n tokens."""
    outside = (indices < 0) | (indices >= n)
    if outside.any():
        raise ChainError(f"{name} {indices[outside][0].item()} is out of range: the tokens are 0 to {n - 1}")
    return indices.long()


def kept_tokens(dropped: SupportsIndex | Sequence[int] | Tensor, operator: Operator) -> Tensor:
    """Return the indices, in order, of the tokens that remain without `dropped`."""
    try:
        indices = torch.as_tensor(dropped, device=operator.device).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise ChainError(f"tokens to drop must be integer indices, got {_kind(dropped)}") from None
    if indices.numel() and indices.dtype not in INTEGERS:
        raise ChainError(f"tokens to drop must be integer indices, got {_kind(indices)}")
    keep = torch.ones(operator.n, dtype=torch.bool, device=operator.device)
    keep[token_indices(indices, "token to drop", operator.n)] = False
    if not keep.any():
        raise ChainError(
            f"dropping {indices.numel()} tokens leaves nothing of a chain of {operator.n}: keep at least one"
        )
    return keep.nonzero().squeeze(-1)


def rows_left(kept: Tensor, tokens: Tensor) -> None:
    """Check that no row (..., kept tokens) lost all of its attention."""
    if (empty := kept.sum(-1) == 0).any():
        *batch, row = _first(empty)
        lost = _row((*batch, int(tokens[row])))
        raise ChainError(
            f"attention {lost} goes to dropped tokens only: drop it too, or delete the tokens from the scores"
        )


def alpha(value: float) -> float:
    """Check the share of bounces that follow the attention."""
    if not isinstance(value, Real) or not 0 < value <= 1:
        raise ChainError(f"alpha must be a number in (0, 1], got {value!r}: 1 is no teleport, 0.99 is usual")
    return float(value)


def stay(value: float) -> float:
    """Check the chance of not moving."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise ChainError(f"stay must be a number in [0, 1), got {value!r}")
    return float(value)


def tolerance(value: float) -> float:
    """Check a tolerance."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ChainError(f"tol must be a number above 0, got {value!r}")
    return float(value)


def bounces(n: SupportsIndex) -> int:
    """Check a number of bounces."""
    if not isinstance(n, SupportsIndex) or isinstance(n, bool) or as_index(n) < 0:
        raise ChainError(f"the number of bounces must be an integer of at least 0, got {n!r}")
    return as_index(n)


def batch_dimension(dim: int, operator: Operator) -> int:
    """Return `dim`, which counts among the batch dimensions, as counted from the front."""
    dims = len(operator.batch_shape)
    if not -dims <= dim < dims:
        raise ChainError(
            f"no batch dimension {dim} to mix: the chain's batch dimensions are {tuple(operator.batch_shape)}"
        )
    return dim % dims


def head_weights(weights: str | Tensor, dim: int, operator: Operator) -> Tensor:
    """Check weights (heads,) or `batch_shape`; return them as `batch_shape` in the operator's type, not normalised."""
    shape = operator.batch_shape
    if not isinstance(weights, Tensor) or weights.shape not in (shape, shape[dim : dim + 1]):
        raise ChainError(
            f'weights must be "uniform", "lambda2" or a tensor of shape {(shape[dim],)} or {tuple(shape)}, got '
            f"{tuple(weights.shape) if isinstance(weights, Tensor) else repr(weights)}"
        )
    if weights.shape != shape:
        weights = weights.view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)
    weights = weights.to(device=operator.device, dtype=operator.dtype)
    if not weights.isfinite().all() or (weights < 0).any() or not (weights.sum(dim) > 0).all():
        raise ChainError("weights must be finite and not negative, and above zero for at least one of the mixed chains")
    return weights


def named_weights(weights: str) -> str:
    """Check weights that are found chain by chain."""
    if weights not in ("uniform", "lambda2"):
        raise ChainError(f'weights must be "uniform" or "lambda2", got {weights!r}')
    return weights


def same_sum(total: Tensor, weights: Tensor, operator: Operator) -> None:
    """Check that chains fit the sum that they are added to."""
    shape = (*weights.shape, operator.n, operator.n)
    if total.shape != shape:
        raise ChainError(
            f"cannot add chains of shape {shape} to a mean of {tuple(total.shape)}: use one mean for each shape"
        )


def weighed(total: Tensor) -> None:
    """Check that a running mean has anything to divide by."""
    if not (total > 0).all():
        raise ChainError('every chain added has lambda2 = 0, so no weight is above zero: use weights="uniform"')


def followers(first: Operator, then: Operator) -> None:
    """Check that one operator's states can go on in the other."""
    if first.n != then.n:
        raise ChainError(f"cannot chain {first.n} tokens with {then.n}: both chains must have the same tokens")
    if first.device != then.device:
        raise ChainError(f"cannot chain {first.device} with {then.device}: move both to one device")
    fits(first.batch_shape, "the first chain", then)


def fits(shape: torch.Size, name: str, operator: Operator) -> None:
    """Check that batch dimensions broadcast with the operator's."""
    try:
        torch.broadcast_shapes(shape, operator.batch_shape)
    except RuntimeError:
        raise ChainError(
            f"{name} has batch dimensions {tuple(shape)}, which do not fit {tuple(operator.batch_shape)}"
        ) from None


def _square(matrix: Tensor, name: str) -> None:
    if not isinstance(matrix, Tensor) or matrix.dtype not in SUM_TOLERANCE:
        raise ChainError(f"{name} must be a tensor of float16, bfloat16, float32 or float64, got {_kind(matrix)}")
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] == 0:
        raise ChainError(f"{name} must be square, (..., n, n) with n of at least 1, got {tuple(matrix.shape)}")


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _no_entry(bad: Tensor, values: Tensor, name: str, advice: str) -> None:
    if bad.any():
        position = _first(bad)
        row = f" {_row(position[:-1])}" if len(position) > 1 else ""
        raise ChainError(f"{name}{row} holds {values[position].item():.6g} at token {position[-1]}: {advice}")


def _rows_sum_to_one(sums: Tensor, tolerance: float) -> None:
    off = (sums - 1).abs()
    if (wrong := off > tolerance).any():
        worst = _first(off == off.max())
        raise ChainError(
            f"attention {_row(worst)} sums to {sums[worst].item():.6g}, off by {off[worst].item():.3g} "
            f"({wrong.sum().item()} of {off.numel()} rows are off by more than {tolerance:g}): "
            "divide each row by its sum, or pass scores to AttentionChain.from_scores"
        )


def _first(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero()[0].tolist())


def _row(position: tuple[int, ...]) -> str:
    *batch, row = position
    return f"row {row} of batch element {tuple(batch)}" if batch else f"row {row}"


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
