"""Matrix-free chains: attention known by its queries and keys alone, in O(n d) memory.

A bounce computes the attention anew, a few query rows at a time, and forgets it: ``A[i, j] = exp(scale q_i . k_j +
mask[i, j] - top_i) / sum_i``. What the softmax of each row divides by is found once. `fused_pieces` does so on any
device, `fused_kernel` on CUDA.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention_chains.chain import fused_kernel, validation
from attention_chains.chain.fused_pieces import Pieces, entries
from attention_chains.chain.memory import free_cuda_memory
from attention_chains.chain.operators import DenseOperator, Operator
from attention_chains.chain.precision import full_precision

DENSE_SHARE = 1 / 8  # of the memory that matrices may take for storage="auto" to form them


def from_qk(q: Tensor, k: Tensor, scale: float | None, mask: Tensor | None, causal: bool, storage: str) -> Operator:
    """Build the operator of `AttentionChain.from_qk`."""
    q, k = validation.queries_and_keys(q, k)
    mask = validation.attention_mask(mask, q)
    attention = FusedOperator.of(q, k, mask, validation.flag(causal, "causal"), validation.scale(scale, q.shape[-1]))
    storage = validation.storage(storage)
    if storage == "dense" or (storage == "auto" and fits(attention)):
        return attention.stored()
    return attention.normalised()


def fits(operator: Operator) -> bool:
    """Whether the dense matrices take at most an eighth of the memory: on CUDA the free one, else the machine's."""
    needed = operator.batch_shape.numel() * operator.n**2 * operator.dtype.itemsize
    return needed <= DENSE_SHARE * _memory(operator.device)


def _memory(device: torch.device) -> int:
    """Bytes; 8 GiB where the system does not say."""
    if device.type == "cuda":
        return free_cuda_memory(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    known = "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**33


@dataclass(eq=False)
class FusedOperator:
    """softmax(scale q k^T + mask), computed again for every bounce and never held.

    Each chain names the rows of q, k and mask that it reads: grouped keys and masks that heads share are never
    repeated, and selecting chains copies nothing. For a float64 state everything is computed in float64.
    """

    q: Tensor  # (queries, n, d), float32 or float64
    k: Tensor  # (key heads, n, d)
    mask: Tensor | None  # (masks, 1 or n, n): boolean (True: may attend) or added to the logits
    causal: bool
    scale: float
    members: Tensor  # (*batch_shape, 3) int64, on the CPU: which q, k and mask
    tops: Tensor | None = None  # (queries, n), the largest logits; without them every row takes a softmax of its own
    sums: Tensor | None = None  # (queries, n), of the exponentials of logit - top
    columns: Tensor | None = None  # (queries, n), the column sums; only where fused_kernel is to be used
    matrix_free = True

    @classmethod
    def of(cls, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float) -> FusedOperator:
        """Take q (*batch, n, d), k the same or with fewer, grouped heads, and a mask that broadcasts; all checked."""
        batch = q.shape[:-2]
        which_q = torch.arange(batch.numel(), device="cpu").view(batch)
        which_k = which_q // (batch[-1] // k.shape[-3]) if batch.numel() and batch else which_q
        which_mask = torch.zeros_like(which_q)
        if mask is not None:
            mask = _distinct(mask, q.shape[-2])
            masks = mask.shape[:-2]
            which_mask = torch.arange(masks.numel(), device="cpu").view(masks).expand(batch)
        members = torch.stack([which_q, which_k, which_mask], -1)
        return cls(_flat(q), _flat(k), None if mask is None else _flat(mask), causal, scale, members)

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.q.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """Dimensions before the tokens."""
        return self.members.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of q and k."""
        return self.q.dtype

    @property
    def device(self) -> torch.device:
        """Device of q and k."""
        return self.q.device

    @torch.no_grad()
    def normalised(self, tokens: Tensor | None = None) -> FusedOperator:
        """Find what every row divides by, and refuse a row without keys; `tokens` name the rows, if not 0 to n."""
        tops, sums = self.q.new_empty(2, self.batch_shape.numel(), self.n).unbind()
        with full_precision(self.device):
            for chains, block in self._blocks(self.dtype, recording=False):
                tops[chains], sums[chains] = block.softmax_parts()
        validation.log_sums((tops + sums.log()).view(*self.batch_shape, self.n), tokens)
        found = replace(self, tops=tops, sums=sums)
        if self.mask is None and fused_kernel.usable(self.q) and bool((tops.abs() <= fused_kernel.LARGEST).all()):
            ones = torch.ones(*self.batch_shape, self.n, dtype=self.dtype, device=self.device)
            found = replace(found, columns=found.apply(ones).view(-1, self.n))
        return found

    def stored(self) -> DenseOperator:
        """Form the matrix once and keep it."""
        dense = DenseOperator.normalising(self.dense())
        if not dense.scale.isfinite().all():
            self.normalised()  # says which row, and why
        return dense

    @property
    def coarseness(self) -> float:
        """Round-offs, in q's type, that an entry of A may be off by, relative to itself: from a bound of the logits."""
        features = self.q.shape[-1] + 4
        largest = (torch.linalg.vector_norm(part, dim=-1).amax() for part in (self.q.detach(), self.k.detach()))
        products = math.prod(norm.item() for norm in largest) * self.scale if self.q.numel() else 0.0
        added = 0.0
        if self.mask is not None and self.mask.dtype != torch.bool:
            added = self.mask.detach().masked_fill(self.mask == -math.inf, 0).abs().amax().item()
        return 2 * (features * abs(products) + added) + self.n

    def apply(self, state: Tensor) -> Tensor:
        """Return v A. The attention is computed once for all states of a chain."""
        return self._each(state, Pieces.apply)

    def apply_transposed(self, state: Tensor) -> Tensor:
        """Return v A^T."""
        return self._each(state, Pieces.apply_transposed)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Compute the matrix."""
        whole = replace(self, tops=None, sums=None)._block(slice(None), dtype or self.dtype, self._recording())
        with full_precision(self.device):
            return whole.attention(slice(0, self.n)).view(*self.batch_shape, self.n, self.n)

    def select(self, dim: int, index: int) -> FusedOperator:
        """Return chains that read the same q, k and mask."""
        return replace(self, members=self.members.select(dim, index))

    def drop(self, keep: Tensor) -> FusedOperator:
        """Return the chains of the tokens `keep` alone: the others leave q, k and the mask."""
        mask = self.mask
        if mask is not None:
            mask = mask.index_select(2, keep)
            mask = mask.index_select(1, keep) if mask.shape[1] > 1 else mask
        members = self.members.clone()
        members[..., 0] = torch.arange(self.batch_shape.numel(), device="cpu").view(self.batch_shape)
        q = _take(self.q, self._rows_read(slice(None))[0]).index_select(1, keep)
        kept = FusedOperator(q, self.k.index_select(1, keep), mask, self.causal, self.scale, members)
        return kept.normalised(tokens=keep)

    def _each(self, state: Tensor, bounce: Callable[[Pieces, Tensor], Tensor]) -> Tensor:
        """Bounce states (..., *batch_shape, n), broadcast with the batch."""
        state = state.to(torch.promote_types(state.dtype, self.dtype))
        shape = torch.broadcast_shapes(state.shape[:-1], self.batch_shape)
        sizes = (1,) * (len(shape) - len(self.batch_shape)) + tuple(self.batch_shape)
        order = sorted(range(len(shape)), key=lambda dim: sizes[dim] == 1)  # chains first, then states that ride along
        moved = state.expand(*shape, self.n).permute(*order, -1)
        chains = self.batch_shape.numel()
        rows = moved.reshape(chains, shape.numel() // max(1, chains), self.n)  # (chains, states, n)
        with full_precision(self.device):
            blocks = self._blocks(state.dtype, self._recording(state))
            parts = [bounce(block, rows[at]) for at, block in blocks]
        bounced = torch.cat(parts) if parts else rows
        inverse = sorted(range(len(shape)), key=order.__getitem__)
        return bounced.view(moved.shape).permute(*inverse, -1)

    def _blocks(self, dtype: torch.dtype, recording: bool) -> Iterator[tuple[slice, Pieces]]:
        """Cut the batch: as many chains at a time as have ENTRIES entries, all of them where the kernel takes them."""
        kernel = self.columns is not None and dtype == self.dtype and not recording
        chains = self.batch_shape.numel()
        step = max(1, chains if kernel else entries(self.device) // self.n**2)
        for first in range(0, chains, step):
            at = slice(first, first + step)
            yield at, self._block(at, dtype, recording)

    def _block(self, chains: slice, dtype: torch.dtype, recording: bool) -> Pieces:
        which_q, which_k, which_mask = self._rows_read(chains)
        q, k = _take(self.q, which_q).to(dtype) * self.scale, _take(self.k, which_k).to(dtype)
        mask = None if self.mask is None else _take(self.mask, which_mask)
        if recording or dtype != self.dtype:
            return Pieces(q, k, mask, self.causal, recording)
        known = (None if one is None else _take(one, which_q) for one in (self.tops, self.sums, self.columns))
        return Pieces(q, k, mask, self.causal, recording, *known)

    def _recording(self, *others: Tensor) -> bool:
        """Whether autograd records what is computed."""
        inputs = (self.q, self.k, *others) if self.mask is None else (self.q, self.k, self.mask, *others)
        return torch.is_grad_enabled() and any(values.requires_grad for values in inputs)

    def _rows_read(self, chains: slice) -> list[list[int]]:
        return self.members.reshape(-1, 3)[chains].T.tolist()


def _flat(values: Tensor) -> Tensor:
    """Merge the dimensions before the last two, (-1, rows, columns)."""
    return values.reshape(values.shape[:-2].numel(), *values.shape[-2:])


def _distinct(mask: Tensor, n: int) -> Tensor:
    """Take expansions back, so that merging dimensions copies no matrix; return (*masks, 1 or n, n)."""
    for dim in range(mask.ndim - 1):
        mask = mask.narrow(dim, 0, 1) if mask.stride(dim) == 0 and mask.shape[dim] else mask
    mask = mask.unsqueeze(0) if mask.ndim == 1 else mask
    return mask.expand(*mask.shape[:-1], n)


def _take(values: Tensor, indices: list[int]) -> Tensor:
    """Return values[indices], as a view where that can be."""
    first, count = (indices or [0])[0], len(indices)
    if indices == list(range(first, first + count)):
        return values[first : first + count]
    if indices == [first] * count:
        return values[first : first + 1].expand(count, -1, -1)
    return values[indices]
