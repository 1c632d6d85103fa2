"""Cross-attention as a chain (the paper's open question, section 6): queries, and one dummy state for each key.

A query goes to the keys as it attends. Keys attend to nothing, so they are dummy states with uniform transitions: a key
goes to every query alike. Of the m + n states the first m are the queries,

    P = [[0, A], [U, 0]],  A (m, n) the attention,  U (n, m) with every entry 1 / m.

Closed forms, with c_j = sum_i A[i, j] / m, the mean attention that key j gets:

- stationary vector: 1 / (2 m) for each query, c_j / 2 for key j. A key's TokenRank is thus its column sum: on the way
  back the walk forgets which key it was at, so there is nothing more to rank by;
- teleported (uniform target, N = m + n): with t = (alpha + (1 - alpha) m / N) / (1 + alpha), all that the queries
  hold, t / m for each query and alpha t c_j + (1 - alpha) / N for key j: the same order of the keys;
- eigenvalues: 1, -1, and 0 otherwise. The walk is at queries and keys in turn: a chain of period two, so its bounces
  never settle, TokenRank is their mean over time, and lambda2 is 1: alpha after teleport, max(stay, |2 stay - 1|) for
  the lazy chain, which has period one. lambda2 says nothing about the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain import validation
from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import DenseOperator


def from_cross(scores: Tensor, probabilities: bool) -> CrossOperator:
    """Build the operator of `AttentionChain.from_cross`."""
    wide = validation.cross_attention(scores) if probabilities else validation.cross_scores(scores).softmax(-1)
    return CrossOperator(DenseOperator.normalising(wide))


def queries_and_keys(state: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Cut a state, ranking or stack of bounces (..., m + n) into its queries (..., m) and its keys (..., n).

    Neither part is scaled: a stationary vector's parts sum to 1/2 each, and parts of a distribution to one together.

    Examples
    --------
    >>> import torch
    >>> queries_and_keys(torch.tensor([0.25, 0.25, 0.3, 0.175, 0.025]), m=2)
    (tensor([0.2500, 0.2500]), tensor([0.3000, 0.1750, 0.0250]))
    """
    if not isinstance(state, Tensor):
        raise ChainError(f"state must be a tensor over queries and keys, got {type(state).__name__}")
    if not isinstance(m, int) or not 0 < m < state.shape[-1]:
        raise ChainError(f"m must be the number of queries, from 1 to {state.shape[-1] - 1} here, got {m!r}")
    return state[..., :m], state[..., m:]


@dataclass(eq=False)
class CrossOperator:
    """[[0, A], [U, 0]]: the attention A (*batch_shape, m, n) is stored, the uniform transitions U are not."""

    attention: DenseOperator  # not square: from queries to keys
    matrix_free = False

    @property
    def n(self) -> int:
        """Number of states, queries and keys together."""
        return sum(self.attention.matrix.shape[-2:])

    @property
    def batch_shape(self) -> torch.Size:
        """Dimensions before the tokens."""
        return self.attention.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrix."""
        return self.attention.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrix."""
        return self.attention.device

    def apply(self, state: Tensor) -> Tensor:
        """Return v P: (mass of the keys spread over the queries, queries A)."""
        queries, keys = self._parts(state)
        bounced = self.attention.apply(queries)
        spread = keys.sum(-1, keepdim=True) / self._m
        return torch.cat([spread.expand(*bounced.shape[:-1], self._m), bounced], -1)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v P^T: (keys A^T, mean of the queries for every key)."""
        queries, keys = self._parts(state)
        bounced = self.attention.apply_transposed(keys)
        mean = queries.mean(-1, keepdim=True)
        return torch.cat([bounced, mean.expand(*bounced.shape[:-1], self.n - self._m)], -1)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the square matrix, (*batch_shape, m + n, m + n)."""
        attention = self.attention.dense(dtype)
        square = attention.new_zeros(*self.batch_shape, self.n, self.n)
        square[..., : self._m, self._m :] = attention
        square[..., self._m :, : self._m] = 1 / self._m
        return square

    def select(self, dim: int, index: int) -> CrossOperator:
        """Return a view."""
        return CrossOperator(self.attention.select(dim, index))

    @property
    def _m(self) -> int:
        return self.attention.matrix.shape[-2]

    def _parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return queries_and_keys(state.to(torch.promote_types(state.dtype, self.dtype)), self._m)
