"""Products of row vectors with stored matrices, by the kernel that is fastest for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import embedding_bag

from attention_chains.chain.precision import full_precision, is_reduced, widest_dtype

CHUNK = {"cpu": 2**18, "cuda": 2**24}  # entries of a matrix that are converted to float64, or multiplied, at a time
BEYOND = 6 * 2**20  # entries of a matrix that are more than a CPU's caches keep
BAG = 128  # rows that one sum is made of: many enough sums for all threads, and the same for any number of threads
LEAST_BAGGED = 800  # rows of a matrix from which bags are the faster way
HAS_BAGS = torch.backends.cpu.get_cpu_capability().startswith("AVX")  # elsewhere the kernel is another one


def row_sums(matrix: Tensor) -> Tensor:
    """Sum the rows of (..., n, m) in float64, where the device has it, a few of them at a time: (..., n)."""
    return torch.cat([rows.sum(-1) for _, rows in wide_rows(matrix, widest_dtype(matrix.device))], -1)


def wide_rows(matrix: Tensor, dtype: torch.dtype, times: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Go through the rows of (..., n, m), a few of them at a time in a wider type: their place, and (..., few, m).

    All come in one buffer, unless a gradient needs them, of the matrix or of the states that they are multiplied by,
    `times`: pieces allocated anew fragment a CPU's heap until it has grown by the whole matrix.
    """
    keep = torch.is_grad_enabled() and (matrix.requires_grad or (times is not None and times.requires_grad))
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
    """Multiply in the operands' own type, even inside an autocast region and where TF32 is on."""
    if not is_reduced(left.device):
        return left @ right
    with full_precision(left.device):
        return left @ right


def rows_times(state: Tensor, matrix: Tensor) -> Tensor:
    """Return v A for states (..., *batch, n) and matrices (*batch, n, m), never repeating a matrix per state."""
    extra = state.ndim + 1 - matrix.ndim
    if extra == 1 and matrix.ndim == 2:
        return _few_rows_times(state, matrix)
    if extra <= 0:
        if matrix.ndim == 2:
            return row_times(state, matrix)
        return matmul(state.unsqueeze(-2), matrix).squeeze(-2)
    rows = state.flatten(0, extra - 1).movedim(0, -2)  # (*batch, states, n)
    return matmul(rows, matrix).movedim(-2, 0).unflatten(0, state.shape[:extra])


def _few_rows_times(state: Tensor, matrix: Tensor) -> Tensor:
    """Return v A for states (states, n). A CPU reads a matrix anew for each of two or three; here its cache serves."""
    if len(state) == 1:
        return row_times(state[0], matrix).unsqueeze(0)
    large = len(state) in (2, 3) and matrix.numel() > BEYOND and matrix.device.type == "cpu"
    if not large or (torch.is_grad_enabled() and (state.requires_grad or matrix.requires_grad)):
        return matmul(state, matrix)
    total = state.new_zeros(len(state), matrix.shape[1])
    with full_precision(matrix.device):
        for rows in row_chunks(matrix):
            total.addmm_(state[:, rows], matrix[rows])
    return total


def row_times(state: Tensor, matrix: Tensor) -> Tensor:
    """Return v A for one state (n,) and a matrix (n, m)."""
    if bags_suit(matrix):
        return in_bags(state, matrix).sum(0)
    return matmul(state.unsqueeze(0), matrix).squeeze(0)


def bags_suit(matrix: Tensor) -> bool:
    """Whether `in_bags` can take a matrix (n, m) and pays: large, of float32, on a CPU, where nothing is recorded."""
    suits = matrix.dtype == torch.float32 and matrix.device.type == "cpu" and matrix.is_contiguous()
    recorded = torch.is_grad_enabled() or forward_ad._current_level >= 0
    return HAS_BAGS and suits and not recorded and len(matrix) >= LEAST_BAGGED


def in_bags(state: Tensor, matrix: Tensor, bag: int = BAG) -> Tensor:
    """Return the terms of v A, for a state (n,) and a matrix (n, m), summed over so many rows at a time: (sums, m).

    Rows times their weights, summed, are what a bag of embeddings is, and the kernel for those took 0.5 to 0.9 of the
    time of MKL's product on one thread, 0.3 to 0.7 on two (AMD EPYC, 901 to 8192 rows).
    """
    rows, first = _bags(len(matrix), bag)
    return embedding_bag(rows, matrix, first, mode="sum", per_sample_weights=state)


@lru_cache(maxsize=8)
def _bags(n: int, bag: int) -> tuple[Tensor, Tensor]:
    """Return the places of all rows, and of the first of each bag: on the CPU, whatever the default device is."""
    with torch.inference_mode(False):
        rows = torch.arange(n, dtype=torch.int32, device="cpu")
        return rows, rows[::bag].clone()
