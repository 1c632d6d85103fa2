"""The operators behind a chain: row-stochastic matrices, known by what they do to states.

A chain asks nothing of its matrix but the members of `Operator`. Only `DenseOperator` stores n x n numbers; the others
wrap an operator and stay implicit, so a matrix-free operator has teleport, outgoing, lazy and product at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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

    def apply(self, state: Tensor) -> Tensor:
        """Return v A. Leading dimensions beyond `batch_shape` are further states: (..., *batch_shape, n)."""

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T, shaped as in `apply`."""

    def dense(self) -> Tensor:
        """Return A itself, (*batch_shape, n, n)."""

    def to(self, dtype: torch.dtype) -> Operator:
        """Return the same chain in another floating type, its rows summing to one in that type."""


def normalised(values: Tensor) -> Tensor:
    """Scale the last dimension to sum one."""
    return values / values.sum(-1, keepdim=True)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Multiply in the operands' own type, even inside an autocast region."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def rows_times(state: Tensor, matrix: Tensor) -> Tensor:
    """Return v A for states (..., *batch, n) and matrices (*batch, n, n), never repeating a matrix per state."""
    extra = state.ndim + 1 - matrix.ndim
    if extra <= 0:
        return matmul(state.unsqueeze(-2), matrix).squeeze(-2)
    rows = state.flatten(0, extra - 1).movedim(0, -2)  # (*batch, states, n)
    return matmul(rows, matrix).movedim(-2, 0).unflatten(0, state.shape[:extra])


@dataclass(eq=False)
class DenseOperator:
    """A stored matrix (*batch_shape, n, n) whose rows sum to one."""

    matrix: Tensor
    contraction = 1.0

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
        return rows_times(state, self.matrix)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T."""
        return rows_times(state, self.matrix.mT)

    def dense(self) -> Tensor:
        """Return the stored matrix, not a copy."""
        return self.matrix

    def to(self, dtype: torch.dtype) -> DenseOperator:
        """Convert; rows are normalised again, float32 rows are off by 1e-7 in float64."""
        return self if dtype == self.dtype else DenseOperator(normalised(self.matrix.to(dtype)))


@dataclass(eq=False)
class _Wrapped:
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


@dataclass(eq=False)
class Teleported(_Wrapped):
    """alpha A + (1 - alpha) 1 p^T: with chance 1 - alpha a bounce lands on the target p, (n,) or (*batch_shape, n)."""

    alpha: float
    target: Tensor

    @property
    def contraction(self) -> float:
        """Every row shares the mass 1 - alpha."""
        return self.alpha * self.base.contraction

    def apply(self, state: Tensor) -> Tensor:
        """Return alpha v A + (1 - alpha) sum(v) p."""
        return self.alpha * self.base.apply(state) + (1 - self.alpha) * state.sum(-1, keepdim=True) * self.target

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return alpha v A^T + (1 - alpha) (v . p) 1."""
        landed = (state * self.target).sum(-1, keepdim=True)
        return self.alpha * self.base.apply_transposed(state) + (1 - self.alpha) * landed

    def dense(self) -> Tensor:
        """Return the full matrix."""
        return self.alpha * self.base.dense() + (1 - self.alpha) * self.target.unsqueeze(-2)

    def to(self, dtype: torch.dtype) -> Teleported:
        """Convert base and target."""
        return Teleported(self.base.to(dtype), self.alpha, normalised(self.target.to(dtype)))


@dataclass(eq=False)
class Outgoing(_Wrapped):
    """D^-1 A^T, D the column sums of A: from token j to the tokens that look at it.

    A column that nobody looks at (its sum is zero) becomes a uniform row: the limit of teleporting to anywhere with
    alpha -> 1 before the columns are normalised.
    """

    contraction = 1.0

    def __post_init__(self) -> None:
        """Take the column sums, with one bounce of all ones."""
        sums = self.base.apply(torch.ones(self.n, dtype=self.dtype, device=self.device))  # (*batch, n)
        empty = sums <= self.n * torch.finfo(self.dtype).tiny  # 1 / sums would overflow
        self.scale = ~empty / sums.masked_fill(empty, 1)
        self.stray = empty / self.n

    def apply(self, state: Tensor) -> Tensor:
        """Return (v / sums) A^T, the mass on empty columns spread evenly."""
        spread = (state * self.stray).sum(-1, keepdim=True)
        return self.base.apply_transposed(state * self.scale) + spread

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return (v A) / sums, the mean of v where the column is empty."""
        return self.base.apply(state) * self.scale + self.stray * state.sum(-1, keepdim=True)

    def dense(self) -> Tensor:
        """Return the full matrix."""
        return self.base.dense().mT * self.scale.unsqueeze(-1) + self.stray.unsqueeze(-1)

    def to(self, dtype: torch.dtype) -> Outgoing:
        """Convert the base; the columns are normalised in the new type."""
        return Outgoing(self.base.to(dtype))


@dataclass(eq=False)
class Lazy(_Wrapped):
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

    def dense(self) -> Tensor:
        """Return the full matrix."""
        identity = torch.eye(self.n, dtype=self.dtype, device=self.device)
        return self.stay * identity + (1 - self.stay) * self.base.dense()

    def to(self, dtype: torch.dtype) -> Lazy:
        """Convert the base."""
        return Lazy(self.base.to(dtype), self.stay)


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
        """Type of the factors."""
        return self.first.dtype

    @property
    def device(self) -> torch.device:
        """Device of the factors."""
        return self.first.device

    @property
    def contraction(self) -> float:
        """Both bounces shrink."""
        return self.first.contraction * self.then.contraction

    def apply(self, state: Tensor) -> Tensor:
        """Return (v A) B."""
        return self.then.apply(self.first.apply(state))

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return (v B^T) A^T."""
        return self.first.apply_transposed(self.then.apply_transposed(state))

    def dense(self) -> Tensor:
        """Return the full matrix."""
        return matmul(self.first.dense(), self.then.dense())

    def to(self, dtype: torch.dtype) -> Product:
        """Convert both factors."""
        return Product(self.first.to(dtype), self.then.to(dtype))
