"""The attention of a few chains, computed a few query rows at a time, on any device, with gradients if need be.

A piece is small enough to stay in a CPU's cache. So computing 16384 tokens' attention for one bounce took 0.5-0.8 times
as long as forming the matrix and bouncing once, and 0.3 times if causal (one thread, float32, 64 features); the CPU's
flash kernel, which wants values as wide as the keys, took longer, and a bounce of a matrix already formed a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attention_chains.chain import fused_kernel

ENTRIES = {"cpu": 2**18, "cuda": 2**22}  # of a piece: on a CPU, 2^17 to 2^18 were the fastest of 2^16 to 2^21


def entries(device: torch.device) -> int:
    """Return how many entries of the attention may exist at a time."""
    return ENTRIES.get(device.type, ENTRIES["cpu"])


@dataclass(eq=False)
class Pieces:
    """A few chains, each with a q, k, mask and softmax of its own.

    What a row's softmax divides by is kept in two parts, the largest logit and the sum of exponentials below it: their
    one logarithm, in float32, would be off by round-off of the largest logit, and so would be the row's sum.

    Unless autograd records, every piece of the attention is computed in the same room, which the next one overwrites:
    freed and allocated anew, pieces were seen to scatter over a gigabyte of heap.
    """

    q: Tensor  # (chains, n, d), scaled
    k: Tensor  # (chains, n, d)
    mask: Tensor | None  # (chains, 1 or n, n)
    causal: bool
    recording: bool
    tops: Tensor | None = None  # (chains, n), the largest logit of each row
    sums: Tensor | None = None  # (chains, n), of the exponentials of logit - top
    columns: Tensor | None = None  # (chains, n)
    room: Tensor | None = None  # flat

    def apply(self, state: Tensor) -> Tensor:
        """Return v A for states (chains, states, n): the sum over pieces of rows."""
        if self.columns is not None and self.tops is not None and self.sums is not None:
            lse = self.tops + self.sums.log()
            return fused_kernel.apply(self.q, self.k, lse, self.columns, self.causal, state)
        total = torch.zeros_like(state)
        for rows in self.pieces():
            part = self._forgotten(self._from_rows, state, rows)
            total[..., : part.shape[-1]] += part
        return total

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T for states (chains, states, n): piece after piece."""
        if self.columns is not None:
            return fused_kernel.apply_transposed(self.q, self.k, self.causal, state)
        total = torch.zeros_like(state)
        for rows in self.pieces():
            total[..., rows] = self._forgotten(self._to_rows, state, rows)
        return total

    def softmax_parts(self) -> tuple[Tensor, Tensor]:
        """Return the tops and the sums, (chains, n) both; the sum of a row without keys is zero."""
        tops, sums = self.q.new_empty(2, *self.q.shape[:-1]).unbind()
        for rows in self.pieces():
            logits = self.logits(rows)
            top = logits.amax(-1, keepdim=True)
            top = top.masked_fill_(top == -math.inf, 0)  # not -inf - -inf
            tops[:, rows], sums[:, rows] = top.squeeze(-1), logits.sub_(top).exp_().sum(-1)
        return tops, sums

    def pieces(self) -> Iterator[slice]:
        """Cut the rows so that a piece has ENTRIES entries."""
        chains, n, _ = self.q.shape
        step = max(1, entries(self.q.device) // max(1, chains * n))
        return (slice(first, min(first + step, n)) for first in range(0, n, step))

    def attention(self, rows: slice) -> Tensor:
        """Return the rows of A, (chains, rows, keys)."""
        logits = self.logits(rows)
        if self.tops is not None and self.sums is not None:
            return logits.sub_(self.tops[:, rows, None]).exp_().div_(self.sums[:, rows, None])
        if self.recording:
            return logits.softmax(-1)
        exponentials = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
        return exponentials.div_(exponentials.sum(-1, keepdim=True))

    def logits(self, rows: slice) -> Tensor:
        """Return scaled and masked logits, (chains, rows, keys): a causal piece ends with its last row's own key."""
        keys = slice(0, rows.stop if self.causal else None)
        q, k = self.q[:, rows], self.k[:, keys]
        logits = torch.bmm(q, k.mT, out=self._room(q.shape[0], q.shape[1], k.shape[1]))
        if self.mask is not None:
            mask = (self.mask[:, rows] if self.mask.shape[1] > 1 else self.mask)[..., keys]
            logits = logits.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else logits.add_(mask)
        if self.causal:
            last = logits[..., rows]  # of the keys that some row of the piece may not see
            last.masked_fill_(torch.ones_like(last[0], dtype=torch.bool).triu(1), -math.inf)
        return logits

    def _room(self, *shape: int) -> Tensor | None:
        size = math.prod(shape)
        if self.recording:
            return None
        if self.room is None or self.room.numel() < size:
            self.room = self.q.new_empty(size)
        return self.room[:size].view(shape)

    def _from_rows(self, state: Tensor, rows: slice) -> Tensor:
        return state[..., rows] @ self.attention(rows)

    def _to_rows(self, state: Tensor, rows: slice) -> Tensor:
        attention = self.attention(rows)
        return state[..., : attention.shape[-1]] @ attention.mT

    def _forgotten(self, part: Callable[[Tensor, slice], Tensor], state: Tensor, rows: slice) -> Tensor:
        """Compute a part that, for gradients, computes its attention again rather than keep it."""
        if not self.recording:
            return part(state, rows)
        return checkpoint(part, state, rows, use_reentrant=False, preserve_rng_state=False)
