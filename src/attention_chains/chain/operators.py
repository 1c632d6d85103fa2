"""The operators behind a chain: row-stochastic matrices, known by what they do to states.

A chain asks nothing of its matrix but the members of `Operator`. Only `DenseOperator` stores n x n numbers; the others
wrap an operator and stay implicit, so a matrix-free operator has teleport, outgoing, lazy and product at once.

The state says how precisely a bounce is computed: one in float64 is bounced in float64 through a float32 matrix too,
a few rows at a time, so that certified results need no second matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CHUNK = {"cpu": 2**18, "cuda": 2**24}  # entries of a matrix that are converted to float64 at a time


class Operator(Protocol):
    """A batch of row-stochastic matrices A, (*batch_shape, n, n). States are row vectors (..., n)."""

    @property
    def n(self) -> int:
        """Number of tokens."""

    @property
    def batch_shape(self) -> torch.Size:
        """Dimensions before the tokens."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the results, float32 or float64."""

    @property
    def device(self) -> torch.device:
        """Where the results live."""

    @property
    def contraction(self) -> float:
        """A proven factor, at most 1, by which one bounce shrinks the L1 distance of any two distributions."""

    @property
    def matrix_free(self) -> bool:
        """Whether `dense` would have to compute the n x n numbers anew: then nothing calls it but the user."""

    def apply(self, state: Tensor) -> Tensor:
        """Return v A, in the wider of the state's type and the operator's.

        Leading dimensions beyond `batch_shape` are further states: (..., *batch_shape, n).
        """

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T, shaped and typed as in `apply`."""

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return A itself, (*batch_shape, n, n), in the operator's own type or a wider one."""

    def select(self, dim: int, index: int) -> Operator:
        """Return the chains at `index` of batch dimension `dim` (counted from the front), without copying a matrix."""


def normalised(values: Tensor) -> Tensor:
    """Scale the last dimension to sum one."""
    return values / values.sum(-1, keepdim=True)


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def single(operator: Operator, index: int) -> Operator:
    """Return one chain of the batch, by its index in the flattened batch."""
    for size in operator.batch_shape[::-1]:
        index, at = divmod(index, size)
        operator = operator.select(len(operator.batch_shape) - 1, at)
    return operator


def row_sums(matrix: Tensor) -> Tensor:
    """Sum the rows of (..., n, m) in float64, where the device has it, a few of them at a time: (..., n)."""
    return torch.cat([rows.sum(-1) for _, rows in wide_rows(matrix, widest_dtype(matrix.device))], -1)


def wide_rows(matrix: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Go through the rows of (..., n, m), a few of them at a time in a wider type: their place, and (..., few, m).

    All come in one buffer, unless a gradient needs them: pieces allocated anew fragment a CPU's heap until it has
    grown by the whole matrix.
    """
    keep = torch.is_grad_enabled() and matrix.requires_grad
    buffer = None
    for rows in row_chunks(matrix):
        piece = matrix[..., rows, :]
        if keep:
            yield rows, piece.to(dtype)
        else:
            if buffer is None:
                buffer = torch.empty(piece.shape, dtype=dtype, device=matrix.device)
            yield rows, buffer[..., : piece.shape[-2], :].copy_(piece.detach())


def row_chunks(matrix: Tensor) -> Iterator[slice]:
    """Cut the rows of (..., n, m) so that no piece of the whole batch has many more than CHUNK entries."""
    n = matrix.shape[-2]
    per_row = max(1, matrix[..., 0, :].numel())
    step = max(1, CHUNK.get(matrix.device.type, CHUNK["cpu"]) // per_row)
    return (slice(first, min(first + step, n)) for first in range(0, n, step))


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Multiply in the operands' own type, even inside an autocast region."""
    if not torch.is_autocast_enabled(left.device.type):
        return left @ right
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def rows_times(state: Tensor, matrix: Tensor) -> Tensor:
    """Return v A for states (..., *batch, n) and matrices (*batch, n, m), never repeating a matrix per state."""
    extra = state.ndim + 1 - matrix.ndim
    if extra == 1 and matrix.ndim == 2:
        return matmul(state, matrix)
    if extra <= 0:
        return matmul(state.unsqueeze(-2), matrix).squeeze(-2)
    rows = state.flatten(0, extra - 1).movedim(0, -2)  # (*batch, states, n)
    return matmul(rows, matrix).movedim(-2, 0).unflatten(0, state.shape[:extra])


@dataclass(eq=False)
class DenseOperator:
    """diag(scale) matrix: a stored (*batch_shape, n, n), float32 or float64, and what makes its rows sum to one.

    The scale, (*batch_shape, n), is one over the row sums in float64: normalising copies nothing.
    """

    matrix: Tensor
    scale: Tensor
    contraction = 1.0
    matrix_free = False

    def __post_init__(self) -> None:
        """Round the scale once for all bounces in the matrix's own type."""
        self._own_scale = self.scale.to(self.matrix.dtype)

    @classmethod
    def normalising(cls, matrix: Tensor) -> DenseOperator:
        """Take a non-negative matrix whose rows sum to anything above zero."""
        return cls(matrix, 1 / row_sums(matrix))

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.matrix.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """Dimensions before the tokens."""
        return self.matrix.shape[:-2]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrix."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrix."""
        return self.matrix.device

    def apply(self, state: Tensor) -> Tensor:
        """Return v A."""
        state = self._widened(state)
        if state.dtype == self.dtype:
            return rows_times(state * self._own_scale, self.matrix)
        scaled = state * self.scale.to(state.dtype)
        total = torch.zeros((), dtype=state.dtype, device=state.device)
        for rows, wide in wide_rows(self.matrix, state.dtype):
            total = total + rows_times(scaled[..., rows], wide)
        return total

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T."""
        state = self._widened(state)
        if state.dtype == self.dtype:
            return rows_times(state, self.matrix.mT) * self._own_scale
        parts = [rows_times(state, wide.mT) for _, wide in wide_rows(self.matrix, state.dtype)]
        return torch.cat(parts, -1) * self.scale.to(state.dtype)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return a new matrix, its rows normalised in `dtype`."""
        dtype = dtype or self.dtype
        return self.matrix.to(dtype) * self.scale.to(dtype).unsqueeze(-1)

    def select(self, dim: int, index: int) -> DenseOperator:
        """Return a view."""
        return DenseOperator(self.matrix.select(dim, index), self.scale.select(dim, index))

    def _widened(self, state: Tensor) -> Tensor:
        return state.to(torch.promote_types(state.dtype, self.dtype))


@dataclass(eq=False)
class Wrapped:
    """What every operator around one other operator takes over from it."""

    base: Operator

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.base.n

    @property
    def batch_shape(self) -> torch.Size:
        """Dimensions before the tokens."""
        return self.base.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return self.base.device

    @property
    def matrix_free(self) -> bool:
        """As the base."""
        return self.base.matrix_free


@dataclass(eq=False)
class Teleported(Wrapped):
    """alpha A + (1 - alpha) 1 p^T: with chance 1 - alpha a bounce lands on the target p, (n,) or (*batch_shape, n)."""

    alpha: float
    target: Tensor

    @property
    def contraction(self) -> float:
        """Every row shares the mass 1 - alpha."""
        return self.alpha * self.base.contraction

    def apply(self, state: Tensor) -> Tensor:
        """Return alpha v A + (1 - alpha) sum(v) p."""
        bounced = self.base.apply(state)
        return self.alpha * bounced + (1 - self.alpha) * state.sum(-1, keepdim=True) * self._target(bounced.dtype)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return alpha v A^T + (1 - alpha) (v . p) 1."""
        bounced = self.base.apply_transposed(state)
        landed = (state * self._target(bounced.dtype)).sum(-1, keepdim=True)
        return self.alpha * bounced + (1 - self.alpha) * landed

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the full matrix."""
        bare = self.base.dense(dtype)
        return self.alpha * bare + (1 - self.alpha) * self._target(bare.dtype).unsqueeze(-2)

    def select(self, dim: int, index: int) -> Teleported:
        """Select from base and target."""
        target = self.target.expand(*self.batch_shape, self.n).select(dim, index)
        return Teleported(self.base.select(dim, index), self.alpha, target)

    def _target(self, dtype: torch.dtype) -> Tensor:
        """Return the target, its sum one in `dtype` too: float32 ones are off by 1e-7 in float64."""
        return self.target if dtype == self.target.dtype else normalised(self.target.to(dtype))


@dataclass(eq=False)
class Outgoing(Wrapped):
    """D^-1 A^T, D the column sums of A: from token j to the tokens that look at it.

    A column that nobody looks at (its sum is zero) becomes a uniform row: the limit of teleporting to anywhere with
    alpha -> 1 before the columns are normalised.
    """

    scale: Tensor  # (*batch_shape, n) float64: one over the column sums, 0 for an empty column
    stray: Tensor  # (*batch_shape, n) float64: 1 / n for an empty column, else 0
    contraction = 1.0

    @classmethod
    def of(cls, base: Operator) -> Outgoing:
        """Take the column sums, with one bounce of all ones in float64."""
        ones = torch.ones(base.n, dtype=widest_dtype(base.device), device=base.device)
        sums = base.apply(ones)  # (*batch, n)
        empty = sums <= base.n * torch.finfo(base.dtype).tiny  # 1 / sums would overflow
        return cls(base, ~empty / sums.masked_fill(empty, 1), empty.to(sums.dtype) / base.n)

    def apply(self, state: Tensor) -> Tensor:
        """Return (v / sums) A^T, the mass on empty columns spread evenly."""
        scale, stray = self._columns(state)
        return self.base.apply_transposed(state * scale) + (state * stray).sum(-1, keepdim=True)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return (v A) / sums, the mean of v where the column is empty."""
        scale, stray = self._columns(state)
        return self.base.apply(state) * scale + stray * state.sum(-1, keepdim=True)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the full matrix."""
        bare = self.base.dense(dtype)
        return bare.mT * self.scale.to(bare.dtype).unsqueeze(-1) + self.stray.to(bare.dtype).unsqueeze(-1)

    def select(self, dim: int, index: int) -> Outgoing:
        """Select from the base and the column sums."""
        return Outgoing(self.base.select(dim, index), self.scale.select(dim, index), self.stray.select(dim, index))

    def _columns(self, state: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(state.dtype, self.dtype)
        return self.scale.to(dtype), self.stray.to(dtype)


@dataclass(eq=False)
class Lazy(Wrapped):
    """stay I + (1 - stay) A."""

    stay: float

    @property
    def contraction(self) -> float:
        """The part that stays does not shrink."""
        return self.stay + (1 - self.stay) * self.base.contraction

    def apply(self, state: Tensor) -> Tensor:
        """Return stay v + (1 - stay) v A."""
        return self.stay * state + (1 - self.stay) * self.base.apply(state)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return stay v + (1 - stay) v A^T."""
        return self.stay * state + (1 - self.stay) * self.base.apply_transposed(state)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the full matrix."""
        bare = self.base.dense(dtype)
        return self.stay * torch.eye(self.n, dtype=bare.dtype, device=self.device) + (1 - self.stay) * bare

    def select(self, dim: int, index: int) -> Lazy:
        """Select from the base."""
        return Lazy(self.base.select(dim, index), self.stay)


@dataclass(eq=False)
class Averaged(Wrapped):
    """The weighted mean of a matrix-free operator's chains along one batch dimension; a bounce takes every one."""

    weights: Tensor  # as the base's batch_shape, summing to one along dim
    dim: int

    @property
    def batch_shape(self) -> torch.Size:
        """The base's, without the averaged dimension."""
        shape = self.base.batch_shape
        return shape[: self.dim] + shape[self.dim + 1 :]

    @property
    def contraction(self) -> float:
        """A mean shrinks as its members do."""
        return self.base.contraction

    def apply(self, state: Tensor) -> Tensor:
        """Return the weighted mean of v A over the chains."""
        return self._mean(self.base.apply(self._to_each(state)))

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return the weighted mean of v A^T over the chains."""
        return self._mean(self.base.apply_transposed(self._to_each(state)))

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the full matrix."""
        bare = self.base.dense(dtype)
        return (bare * self.weights.to(bare.dtype)[..., None, None]).sum(self.dim)

    def select(self, dim: int, index: int) -> Averaged:
        """Select from another dimension than the averaged one."""
        inside = dim if dim < self.dim else dim + 1
        weights = self.weights.select(inside, index)
        return Averaged(self.base.select(inside, index), weights, self.dim - (dim < self.dim))

    @property
    def _behind(self) -> int:
        """Place of the averaged dimension in (..., *base.batch_shape, n), counted from the end."""
        return len(self.base.batch_shape) - self.dim + 1

    def _to_each(self, state: Tensor) -> Tensor:
        """Give each averaged chain the same state."""
        padding = (1,) * (self._behind - 1 - state.ndim)
        return state.reshape(padding + state.shape).unsqueeze(-self._behind)

    def _mean(self, bounced: Tensor) -> Tensor:
        return (bounced * self.weights.to(bounced.dtype).unsqueeze(-1)).sum(-self._behind)


@dataclass(eq=False)
class Product:
    """A B: first a bounce of A, then one of B."""

    first: Operator
    then: Operator

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.first.n

    @property
    def batch_shape(self) -> torch.Size:
        """The factors' batch dimensions, broadcast."""
        return torch.broadcast_shapes(self.first.batch_shape, self.then.batch_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The wider of the factors' types."""
        return torch.promote_types(self.first.dtype, self.then.dtype)

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.first.device

    @property
    def contraction(self) -> float:
        """Both bounces shrink."""
        return self.first.contraction * self.then.contraction

    @property
    def matrix_free(self) -> bool:
        """Whether one of the factors is."""
        return self.first.matrix_free or self.then.matrix_free

    def apply(self, state: Tensor) -> Tensor:
        """Return (v A) B."""
        return self.then.apply(self.first.apply(state))

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return (v B^T) A^T."""
        return self.first.apply_transposed(self.then.apply_transposed(state))

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the full matrix."""
        dtype = dtype or self.dtype
        return matmul(self.first.dense(dtype), self.then.dense(dtype))

    def select(self, dim: int, index: int) -> Product:
        """Select from each factor that has the dimension."""
        behind = dim - len(self.batch_shape)  # counted from the tokens, as broadcasting aligns them
        return Product(_select_broadcast(self.first, behind, index), _select_broadcast(self.then, behind, index))


def _select_broadcast(operator: Operator, behind: int, index: int) -> Operator:
    """Select from a dimension counted from the end, which the operator may lack or have with size one."""
    dim = len(operator.batch_shape) + behind
    return operator if dim < 0 else operator.select(dim, index if operator.batch_shape[dim] > 1 else 0)
