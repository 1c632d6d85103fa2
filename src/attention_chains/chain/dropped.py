"""Chains without some of their tokens: rows and columns deleted, rows normalised (protocol 0.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention_chains.chain import validation
from attention_chains.chain.derived import Wrapped
from attention_chains.chain.fused import FusedOperator
from attention_chains.chain.operators import DenseOperator, Operator
from attention_chains.chain.precision import widest_dtype


def drop(operator: Operator, keep: Tensor) -> Operator:
    """Return the chains of the tokens `keep`, in their order: dense stays dense, matrix-free stays matrix-free."""
    if isinstance(operator, FusedOperator):
        return operator.drop(keep)
    if operator.matrix_free:
        return Dropped.of(operator, keep)
    kept = operator.dense().index_select(-2, keep).index_select(-1, keep)
    largest = kept.detach().amax(-1, keepdim=True)
    validation.rows_left(largest.squeeze(-1) > 0, keep)
    return DenseOperator.normalising(kept / largest)  # what a peaked row keeps may be too small to divide one by


@dataclass(eq=False)
class Dropped(Wrapped):
    """A matrix-free operator between the tokens `keep`: bounces of all tokens, with the others left empty."""

    keep: Tensor  # (kept,)
    scale: Tensor  # (*batch_shape, kept) float64: one over what each row keeps

    @classmethod
    def of(cls, base: Operator, keep: Tensor) -> Dropped:
        """Sum what each row keeps, with one transposed bounce in float64."""
        kept = torch.zeros(*base.batch_shape, base.n, dtype=widest_dtype(base.device), device=base.device)
        sums = base.apply_transposed(kept.index_fill(-1, keep, 1)).index_select(-1, keep)
        validation.rows_left(sums > base.n * torch.finfo(base.dtype).tiny, keep)  # else one over it overflows
        return cls(base, keep, 1 / sums)

    @property
    def n(self) -> int:
        """Number of tokens kept."""
        return self.keep.shape[0]

    def apply(self, state: Tensor) -> Tensor:
        """Return v A."""
        return self.base.apply(self._among_all(state * self._scale(state))).index_select(-1, self.keep)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T."""
        bounced = self.base.apply_transposed(self._among_all(state)).index_select(-1, self.keep)
        return bounced * self._scale(state)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Compute the matrix."""
        bare = self.base.dense(dtype).index_select(-2, self.keep).index_select(-1, self.keep)
        return bare * self.scale.to(bare.dtype).unsqueeze(-1)

    def select(self, dim: int, index: int) -> Dropped:
        """Select from the base and what the rows keep."""
        return replace(self, base=self.base.select(dim, index), scale=self.scale.select(dim, index))

    def _among_all(self, state: Tensor) -> Tensor:
        empty = state.new_zeros(*state.shape[:-1], self.base.n)
        return empty.index_copy(-1, self.keep, state)

    def _scale(self, state: Tensor) -> Tensor:
        return self.scale.to(torch.promote_types(state.dtype, self.dtype))
