"""Operators made of other operators: they stay implicit, so that a matrix-free chain has all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain.operators import Operator, normalised
from attention_chains.chain.precision import widest_dtype
from attention_chains.chain.products import matmul


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
