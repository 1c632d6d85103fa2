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
from attention_chains.chain.operators import Operator, normalised
from attention_chains.chain.products import row_sums

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
    return _maskable(logits)


def cross_scores(logits: Tensor) -> Tensor:
    """Check cross-attention logits (..., m, n), -inf where a key is masked; return them in float32 or float64."""
    _rectangular(logits, "scores")
    return _maskable(logits)


def cross_attention(matrix: Tensor) -> Tensor:
    """Check cross-attention after the softmax (..., m, n); return it in float32 or float64."""
    _rectangular(matrix, "attention")
    wide = _wide(matrix)
    advice = "pass attention after the softmax, or scores with probabilities=False"
    _no_entry(~(wide.isfinite() & (wide >= 0)), wide, "attention", advice)
    _rows_sum_to_one(wide.sum(-1), SUM_TOLERANCE[matrix.dtype], "pass scores with probabilities=False")
    return wide


def _maskable(logits: Tensor) -> Tensor:
    wide = _wide(logits)
    masked = wide == -math.inf
    _no_entry(
        ~wide.isfinite() & ~masked, wide, "scores", "only -inf, which masks a key, is allowed beside finite numbers"
    )
    if (lost := masked.all(-1)).any():
        raise ChainError(f"scores {_row(_first(lost))} is -inf at every token: leave it a key to attend to, or drop it")
    return wide


def queries_and_keys(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Check q (*batch, n, d) and k, the same or with grouped heads; return both in one type, float32 or float64."""
    for name, values in (("q", q), ("k", k)):
        if not isinstance(values, Tensor) or values.dtype not in SUM_TOLERANCE:
            raise ChainError(f"{name} must be a tensor of float16, bfloat16, float32 or float64, got {_kind(values)}")
        if values.ndim < 2 or 0 in values.shape[-2:]:
            raise ChainError(
                f"{name} must have shape (..., n, d) with n and d of at least 1, got {tuple(values.shape)}"
            )
    if q.device != k.device:
        raise ChainError(f"q is on {q.device} and k on {k.device}: move both to one device")
    if q.shape[-2] != k.shape[-2]:
        raise ChainError(
            f"q has {q.shape[-2]} tokens and k {k.shape[-2]}, but a chain needs the same on both sides: "
            "pass the scores of cross-attention to AttentionChain.from_cross"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ChainError(f"q has {q.shape[-1]} features and k {k.shape[-1]}: they must be equally many")
    if not _grouped(q.shape[:-2], k.shape[:-2]):
        raise ChainError(
            f"q has batch dimensions {tuple(q.shape[:-2])} and k {tuple(k.shape[:-2])}: they must be the same, but for "
            "the last, where the heads of k may divide those of q"
        )
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    return q.to(dtype), k.to(dtype)


def _grouped(queries: torch.Size, keys: torch.Size) -> bool:
    if queries == keys:
        return True
    same = len(queries) == len(keys) and queries[:-1] == keys[:-1]
    return same and keys[-1] > 0 and queries[-1] % keys[-1] == 0


def attention_mask(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """Check a boolean or additive mask, which must broadcast to (*batch, n, n) for q (*batch, n, d)."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype not in (torch.bool, *SUM_TOLERANCE):
        raise ChainError(
            f"mask must be a boolean tensor (True: may attend) or one of floats added to the logits, got {_kind(mask)}"
        )
    if mask.device != q.device:
        raise ChainError(f"mask is on {mask.device} and q on {q.device}: move both to one device")
    full = (*q.shape[:-1], q.shape[-2])
    sizes = mask.shape[::-1]
    if mask.ndim > len(full) or any(size not in (1, whole) for size, whole in zip(sizes, full[::-1], strict=False)):
        raise ChainError(f"mask has shape {tuple(mask.shape)}, which does not broadcast to {full}")
    return mask if mask.ndim else mask.unsqueeze(0)


def log_sums(lse: Tensor, tokens: Tensor | None = None) -> None:
    """Check the logs of the sums that a softmax divides by, (*batch, n); `tokens` are the rows' names if not 0 to n."""
    if lse.isfinite().all():
        return
    lost = lse == -math.inf
    *batch, row = _first(lost if lost.any() else ~lse.isfinite())
    named = _row((*batch, row if tokens is None else int(tokens[row])))
    if not lost.any():
        raise ChainError(f"the logits of {named} are not finite: look for NaN or overflow in q, k and the mask")
    if tokens is not None:
        raise ChainError(f"attention {named} goes to dropped tokens only: drop it too")
    raise ChainError(f"mask leaves {named} no key to attend to: leave it one, or delete the token from q and k")


def scale(value: float | None, features: int) -> float:
    """Check the factor of q k^T; by default it is one over the root of the features."""
    if value is None:
        return features**-0.5
    if not _is_number(value) or isinstance(value, bool) or not math.isfinite(value):
        raise ChainError(f"scale must be a finite number, got {value!r}")
    return float(value)


def storage(value: str) -> str:
    """Check where a chain's numbers are to be."""
    if value not in ("auto", "dense", "fused"):
        raise ChainError(f'storage must be "auto", "dense" or "fused", got {value!r}')
    return value


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


def rows_left(left: Tensor, tokens: Tensor) -> None:
    """Check that no row of the `tokens` kept lost all of its attention, by what says which have some, (..., kept)."""
    if (empty := ~left).any():
        *batch, row = _first(empty)
        lost = _row((*batch, int(tokens[row])))
        raise ChainError(
            f"attention {lost} goes to dropped tokens only: drop it too, or delete the tokens from the scores"
        )


def alpha(value: float) -> float:
    """Check the share of bounces that follow the attention."""
    if not _is_number(value) or not 0 < value <= 1:
        raise ChainError(f"alpha must be a number in (0, 1], got {value!r}: 1 is no teleport, 0.99 is usual")
    return float(value)


def stay(value: float) -> float:
    """Check the chance of not moving."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ChainError(f"stay must be a number in [0, 1), got {value!r}")
    return float(value)


def flag(value: bool, name: str) -> bool:
    """Check a choice of yes or no."""
    if not isinstance(value, bool):
        raise ChainError(f"{name} must be True or False, got {value!r}")
    return value


def tolerance(value: float) -> float:
    """Check a tolerance."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ChainError(f"tol must be a number above 0, got {value!r}")
    return float(value)


def alphas(values: Sequence[float] | Tensor) -> list[float]:
    """Check several shares of bounces that follow the attention."""
    listed = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(listed, Sequence) or isinstance(listed, str) or len(listed) == 0:
        raise ChainError(f"alphas must be a sequence of at least one number in (0, 1], got {values!r}")
    return [alpha(value) for value in listed]


def stopping(method: str, stop: str) -> None:
    """Check a way to find TokenRank, and its stopping rule."""
    if method not in ("krylov", "power"):
        raise ChainError(f'method must be "krylov" or "power", got {method!r}')
    if stop not in ("bound", "paper", "official"):
        raise ChainError(f'stop must be "bound", "paper" or "official", got {stop!r}')
    if method == "krylov" and stop != "bound":
        raise ChainError(f'stop={stop!r} is a rule of the power method: pass method="power" with it')


def dense(operator: Operator, what: str, instead: str) -> None:
    """Check that the n x n numbers are at hand."""
    if operator.matrix_free:
        raise ChainError(f"{what} takes powers of the n x n matrix, which a matrix-free chain does not hold: {instead}")


def distance(eps: float) -> float:
    """Check a total variation distance below which a chain counts as mixed."""
    if not _is_number(eps) or not 0 < eps < 0.5:
        raise ChainError(f"eps must be a number above 0 and below 0.5, got {eps!r}: 0.25 is usual")
    return float(eps)


def bounces(n: SupportsIndex) -> int:
    """Check a number of bounces."""
    if not isinstance(n, SupportsIndex) or isinstance(n, bool) or as_index(n) < 0:
        raise ChainError(f"the number of bounces must be an integer of at least 0, got {n!r}")
    return as_index(n)


def batch_dimension(dim: int, operator: Operator) -> int:
    """Return `dim`, which counts among the batch dimensions, as counted from the front."""
    dims = len(operator.batch_shape)
    if not isinstance(dim, int) or isinstance(dim, bool) or not -dims <= dim < dims:
        raise ChainError(
            f"no batch dimension {dim!r} to mix: the chain's batch dimensions are {tuple(operator.batch_shape)}"
        )
    if operator.batch_shape[dim] == 0:
        raise ChainError(f"batch dimension {dim} of {tuple(operator.batch_shape)} has no chains to mix")
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
    if weights.is_complex():
        raise ChainError(f"weights must be real, got a tensor of {weights.dtype}")
    weights = weights.to(device=operator.device, dtype=operator.dtype)
    if not weights.isfinite().all() or (weights < 0).any() or not (weights.amax(dim) > 0).all():
        raise ChainError("weights must be finite and not negative, and above zero for at least one of the mixed chains")
    return weights


def named_weights(weights: str) -> str:
    """Check weights that are found chain by chain."""
    if weights not in ("uniform", "lambda2"):
        raise ChainError(f'weights must be "uniform" or "lambda2", got {weights!r}')
    return weights


def a_chain(value: object, known: type) -> None:
    """Check that a value is a chain, which a tensor is not yet."""
    if not isinstance(value, known):
        raise ChainError(f"expected an AttentionChain, got {_kind(value)}: wrap attention in AttentionChain(...)")


def same_sum(total: Tensor, weights: Tensor, operator: Operator) -> None:
    """Check that chains fit the sum that they are added to."""
    shape = (*weights.shape, operator.n, operator.n)
    if total.shape != shape:
        raise ChainError(
            f"cannot add chains of shape {shape} to a mean of {tuple(total.shape)}: use one mean for each shape"
        )
    if total.device != operator.device:
        raise ChainError(f"cannot add chains on {operator.device} to a mean on {total.device}: move them there first")


def weighed(total: Tensor) -> None:
    """Check that a running mean has anything to divide by."""
    if (empty := total <= 0).any():
        where = f" to batch element {tuple(_first(empty))}" if total.ndim else ""
        raise ChainError(f'every chain added{where} has lambda2 = 0, so no weight is above zero: use weights="uniform"')


def token_weights(values: Tensor, operator: Operator) -> Tensor:
    """Check the tokens' weights for metastable sets: a distribution within the batch dimensions, nowhere zero."""
    checked = distribution(values, "weights", operator)
    if torch.broadcast_shapes(checked.shape[:-1], operator.batch_shape) != operator.batch_shape:
        raise ChainError(
            f"weights has batch dimensions {tuple(checked.shape[:-1])}, but the chain has only "
            f"{tuple(operator.batch_shape)}"
        )
    if (zero := checked == 0).any():
        raise ChainError(
            f"weights are zero at token {_first(zero)[-1]}: give each token some, as TokenRank with teleport does"
        )
    return checked


def set_count(k: SupportsIndex, n: int) -> int:
    """Check a number of metastable sets of n tokens."""
    if not isinstance(k, SupportsIndex) or isinstance(k, bool) or not 1 <= as_index(k) <= n:
        raise ChainError(f'k must be "gap" or an integer from 1 to {n}, the number of tokens, got {k!r}')
    return as_index(k)


def most_sets(k_max: SupportsIndex) -> int:
    """Check the largest number of metastable sets that may be picked."""
    if not isinstance(k_max, SupportsIndex) or isinstance(k_max, bool) or as_index(k_max) < 2:
        raise ChainError(f"k_max must be an integer of at least 2, got {k_max!r}")
    return as_index(k_max)


def eigenvalue_count(k: SupportsIndex, n: int) -> int:
    """Check a number of eigenvalues of n tokens."""
    if not isinstance(k, SupportsIndex) or isinstance(k, bool) or not 1 <= as_index(k) <= n:
        raise ChainError(f"k must be an integer from 1 to {n}, the number of tokens, got {k!r}")
    return as_index(k)


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


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _square(matrix: Tensor, name: str) -> None:
    if not isinstance(matrix, Tensor) or matrix.dtype not in SUM_TOLERANCE:
        raise ChainError(f"{name} must be a tensor of float16, bfloat16, float32 or float64, got {_kind(matrix)}")
    if matrix.layout != torch.strided:
        raise ChainError(f"{name} must be stored dense, got {matrix.layout}: call to_dense()")
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] == 0:
        raise ChainError(f"{name} must be square, (..., n, n) with n of at least 1, got {tuple(matrix.shape)}")


def _rectangular(matrix: Tensor, name: str) -> None:
    if not isinstance(matrix, Tensor) or matrix.dtype not in SUM_TOLERANCE:
        raise ChainError(f"{name} must be a tensor of float16, bfloat16, float32 or float64, got {_kind(matrix)}")
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ChainError(
            f"{name} must have shape (..., m, n), m queries and n keys of at least 1, got {tuple(matrix.shape)}"
        )


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _no_entry(bad: Tensor, values: Tensor, name: str, advice: str) -> None:
    if bad.any():
        position = _first(bad)
        row = f" {_row(position[:-1])}" if len(position) > 1 else ""
        raise ChainError(f"{name}{row} holds {values[position].item():.6g} at token {position[-1]}: {advice}")


def _rows_sum_to_one(
    sums: Tensor, tolerance: float, instead: str = "pass scores to AttentionChain.from_scores"
) -> None:
    off = (sums - 1).abs()
    if (wrong := off > tolerance).any():
        worst = _first(off == off.max())
        raise ChainError(
            f"attention {_row(worst)} sums to {sums[worst].item():.6g}, off by {off[worst].item():.3g} "
            f"({wrong.sum().item()} of {off.numel()} rows are off by more than {tolerance:g}): "
            f"divide each row by its sum, or {instead}"
        )


def _first(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero()[0].tolist())


def _row(position: tuple[int, ...]) -> str:
    *batch, row = position
    return f"row {row} of batch element {tuple(batch)}" if batch else f"row {row}"


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
