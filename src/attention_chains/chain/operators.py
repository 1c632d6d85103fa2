"""The operators behind a chain: row-stochastic matrices, known by what they do to states.

A chain asks nothing of its matrix but the members of `Operator`. Of them only `DenseOperator` stores n x n numbers.

The state says how precisely a bounce is computed: one in float64 is bounced in float64 through a float32 matrix too,
a few rows at a time, so that certified results need no second matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from attention_chains.chain.products import bags_suit, in_bags, matmul, row_sums, rows_times, wide_rows

BLOCK = 16  # rows that `apply_in_blocks` multiplies in the matrix's own type


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


def single(operator: Operator, index: int) -> Operator:
    """Return one chain of the batch, by its index in the flattened batch."""
    for size in operator.batch_shape[::-1]:
        index, at = divmod(index, size)
        operator = operator.select(len(operator.batch_shape) - 1, at)
    return operator


@dataclass(eq=False)
class DenseOperator:
    """diag(scale) matrix: a stored (*batch_shape, n, n), float32 or float64, and what makes its rows sum to one.

    The scale, (*batch_shape, n), is one over the row sums in float64: normalising copies nothing.
    """

    matrix: Tensor
    scale: Tensor
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
        for rows, wide in wide_rows(self.matrix, state.dtype, state):
            total = total + rows_times(scaled[..., rows], wide)
        return total

    @property
    def off_in_blocks(self) -> float:
        """By how much `apply_in_blocks` may be off in L1, relative to the sum of the state.

        No term is negative, so that each entry is off, relative to itself, by the round-offs of a scaled state, of a
        product and of BLOCK sums; entries that underflow are lost, and count for nothing in the sum.
        """
        return (BLOCK + 2) * torch.finfo(self.dtype).eps / 2 + self.n * torch.finfo(torch.float64).eps

    def apply_in_blocks(self, state: Tensor) -> Tensor:
        """Return v A of non-negative float64 states (states, n) and one chain, nearly as precise as `apply` is.

        Blocks of rows are multiplied in the matrix's own type and their sums added in float64: on a CPU that costs a
        quarter of widening the matrix.
        """
        rows = (state * self.scale.to(state.dtype)).to(self.dtype)
        if len(rows) == 1 and bags_suit(self.matrix):
            return in_bags(rows[0], self.matrix, BLOCK).sum(0, dtype=state.dtype).unsqueeze(0)
        whole = self.n // BLOCK * BLOCK
        blocks = rows[:, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1)  # (blocks, states, BLOCK)
        sums = matmul(blocks, self.matrix[:whole].unflatten(0, (-1, BLOCK)))
        return sums.sum(0, dtype=state.dtype) + matmul(rows[:, whole:], self.matrix[whole:])

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T."""
        state = self._widened(state)
        if state.dtype == self.dtype:
            return rows_times(state, self.matrix.mT) * self._own_scale
        parts = [rows_times(state, wide.mT) for _, wide in wide_rows(self.matrix, state.dtype, state)]
        return torch.cat(parts, -1) * self.scale.to(state.dtype)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return a new matrix, its rows normalised in `dtype`."""
        dtype = dtype or self.dtype
        return self.matrix.to(dtype) * self.scale.to(dtype).unsqueeze(-1)

    def select(self, dim: int, index: int) -> DenseOperator:
        """Return a view."""
        return DenseOperator(self.matrix.select(dim, index), self.scale.select(dim, index))

    def _widened(self, state: Tensor) -> Tensor:
        return state if state.dtype == self.dtype else state.to(torch.promote_types(state.dtype, self.dtype))


def bounce_rows(operator: Operator, rows: Tensor, transposed: bool = False) -> Tensor:
    """Return v A, or v A^T, for several states of each chain of the flattened batch, (B, states, n)."""
    bounce = operator.apply_transposed if transposed else operator.apply
    shape = operator.batch_shape
    if not shape:
        return bounce(rows[0]).unsqueeze(0)
    return bounce(rows.movedim(1, 0).unflatten(1, shape)).flatten(1, -2).movedim(0, 1)


def bouncing(
    operator: Operator, states: int, dtype: torch.dtype, transposed: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return `bounce_rows` for so many states in a type, to be called in `full_precision`.

    One state of stored chains takes a scaling and a product, with nothing around them: after a product a CPU's caches
    hold the matrix and no more, so that a few steps of a program take as long as it did.
    """
    if states > 1 or not isinstance(operator, DenseOperator) or operator.dtype != dtype:
        return partial(bounce_rows, operator, transposed=transposed)
    n = operator.n
    matrix, scale = operator.matrix.reshape(-1, n, n), operator.scale.reshape(-1, 1, n)
    off = (scale - 1).abs()
    plain = bool((off <= torch.finfo(dtype).eps).all())  # no more than what storing the matrix rounded off
    scale = scale.to(dtype)
    if not transposed and len(matrix) == 1 and bags_suit(matrix[0]):
        one = matrix[0]
        return lambda rows: in_bags((rows if plain else rows * scale).view(n), one).sum(0).view(1, 1, n)
    if plain:
        return lambda rows: torch.bmm(rows, matrix.mT if transposed else matrix)
    if transposed:
        return lambda rows: torch.bmm(rows, matrix.mT).mul_(scale)
    return lambda rows: torch.bmm(rows * scale, matrix)
