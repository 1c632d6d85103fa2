"""Eigenvalues and spans of small or formed matrices, and how a batch of chains is cut up for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import DenseOperator, Operator, single
from attention_chains.chain.precision import widest_dtype

BATCH = {"cpu": 2**21, "cuda": 2**31}  # entries of the matrices that are bounced at once
APART = 512  # tokens from which a CPU bounces chain by chain as fast as a batch
GAVE_UP: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # public, but without a type
FORMED = {False: 8192, True: 1024}  # tokens up to which a stored, or a matrix-free, chain may be formed in float64


def pieces(operator: Operator) -> list[Operator]:
    """Cut a batch into pieces whose bases are best grown together: from some size on, a CPU has no gain from two."""
    n, device = operator.n, operator.device.type
    if device == "cpu" and n >= APART:
        return [single(operator, chain) for chain in range(operator.batch_shape.numel())]
    return _pieces(operator, max(1, BATCH.get(device, BATCH["cpu"]) // n**2))


def _pieces(operator: Operator, most: int) -> list[Operator]:
    """Cut a batch into pieces of at most so many chains, in order."""
    shape = operator.batch_shape
    if shape.numel() <= most:
        return [operator]
    if isinstance(operator, DenseOperator):
        flat = taken(operator, slice(None))  # what cannot be flattened is copied, once
        return [taken(flat, slice(first, first + most)) for first in range(0, shape.numel(), most)]
    return [piece for index in range(shape[0]) for piece in _pieces(operator.select(0, index), most)]


def taken(operator: DenseOperator, chains: Tensor | slice) -> DenseOperator:
    """Return these chains of a flattened batch: views of a slice, copies of what indices name."""
    return DenseOperator(operator.matrix.flatten(0, -3)[chains], operator.scale.flatten(0, -2)[chains])


def may_form(operator: Operator) -> bool:
    """Whether one chain at a time may be formed in float64, for all of its eigenvalues."""
    return operator.n <= FORMED[operator.matrix_free]


def formed(operator: Operator, index: int) -> Tensor:
    """Return the matrix of one chain, (n, n) in float64, on a device with eigenvalues: MPS has neither."""
    chain, dtype = single(operator, index), widest_dtype(operator.device)
    if chain.matrix_free:
        matrix = chain.apply(torch.eye(chain.n, dtype=dtype, device=chain.device))
    else:
        matrix = chain.dense(dtype)
    return _wide(matrix)


def eigenvalues(matrices: Tensor) -> Tensor:
    """Return all eigenvalues (B, n) of float64 matrices, on the CPU."""
    return _solved(torch.linalg.eigvals, matrices).cpu()


def _solved(solver: Callable[[Tensor], Any], matrices: Tensor) -> Any:
    """Call LAPACK again with every entry changed by a round-off where it gives up, as on some matrices of rank one."""
    try:
        return solver(matrices)
    except GAVE_UP:
        noise = torch.randn(matrices.shape, generator=torch.Generator().manual_seed(0)).to(matrices)
        try:
            return solver(matrices * (1 + torch.finfo(matrices.dtype).eps * noise))
        except GAVE_UP as error:
            raise ChainError("The eigenvalues of a chain cannot be found: LAPACK did not converge.") from error


def sorted_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (B, m), complex128, by falling modulus, pairs adjacent, and eigenvectors (B, m, m)."""
    values, vectors = small_eigen(matrix)
    return ordered(values, vectors, by_modulus(values))


def small_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (B, m), complex128, and eigenvectors (B, m, m) of norm one, pairs adjacent.

    They are found on the CPU, which is fastest for matrices so small and costs one transfer, in the matrix's own type:
    a projected matrix is no better than the vectors that it comes from.
    """
    values, vectors = _solved(torch.linalg.eig, matrix.cpu())
    return values.to(torch.complex128), vectors


def by_modulus(values: Tensor) -> Tensor:
    """Return the places of eigenvalues (B, m) by falling modulus; pairs stay adjacent."""
    return values.abs().argsort(dim=-1, descending=True, stable=True)


def ordered(values: Tensor, vectors: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (B, k) and eigenvectors (B, m, k) at some places (B, k)."""
    return values.gather(-1, places), vectors.gather(-1, places.unsqueeze(-2).expand(*vectors.shape[:-1], -1))


def real_span(values: Tensor, vectors: Tensor, keep: int) -> Tensor:
    """Return an orthonormal basis (B, m, keep) of leading eigenvectors; rather than half a pair, the last is zero."""
    real = torch.where((values.imag >= 0).unsqueeze(-2), vectors.real, vectors.imag)[..., :keep]
    basis = torch.linalg.qr(real).Q
    basis[..., -1] *= ~splits(values, keep).unsqueeze(-1)
    return basis


def unsplit(values: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis (B, m, count + 1) of the first `count` eigenvectors, and their eigenvalues.

    The last column, and eigenvalue, is zero unless it completes a conjugate pair. All that there are (m = count) never
    end within a pair: then there are no more columns than these.
    """
    keep = min(count + 1, values.shape[-1])
    basis, kept = real_span(values, vectors, keep), values[..., :keep].clone()
    if keep > count:
        completes = splits(values, count)
        basis[..., -1] *= completes.unsqueeze(-1)
        kept[..., -1] *= completes
    return basis, kept


def leading_span(matrix: Tensor, count: int, right: bool) -> tuple[Tensor, Tensor]:
    """Return the leading eigenvalues (count + 1,) and a basis (n, count + 1) of their vectors, from all of them.

    Of one chain (n, n): of ``A x`` on the complement of the constant vector, or of ``x A``. Beyond what `unsplit` gives
    they are zero.
    """
    outside = _complement(matrix) if right else torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    inner = outside.mT @ matrix @ outside if right else matrix.mT
    values, vectors = sorted_eigen(inner.unsqueeze(0))
    basis, kept = unsplit(values, vectors, count)
    spare = count + 1 - kept.shape[-1]
    return pad(kept[0], (0, spare)), pad(outside @ basis[0].to(outside), (0, spare))


def _complement(matrix: Tensor) -> Tensor:
    """Return an orthonormal basis (n, n - 1) of the vectors that sum to zero, by a Householder reflection."""
    n = len(matrix)
    normal = torch.full((n,), n**-0.5, dtype=matrix.dtype, device=matrix.device)
    normal[0] += 1
    reflected = -torch.outer(normal, normal) / normal[0]
    reflected.diagonal().add_(1)
    return reflected[:, 1:]


def residuals(values: Tensor, vectors: Tensor, images: Tensor) -> Tensor:
    """Return the norms of ``y A - value y``, (B, count) on the CPU, for vectors and their images (B, 2, count, n)."""
    turn = torch.stack([values.real, values.imag], 1).unsqueeze(-1).to(vectors)
    (real, imag), (y_real, y_imag) = turn.unbind(1), vectors.unbind(1)
    off = images - torch.stack([real * y_real - imag * y_imag, real * y_imag + imag * y_real], 1)
    return torch.linalg.vector_norm(off, dim=(1, 3)).cpu().double()


def splits(values: Tensor, keep: int) -> Tensor:
    """Whether the first `keep` of (B, m) sorted eigenvalues end between the two of a pair, (B,)."""
    return (values.imag[..., :keep] != 0).sum(-1) % 2 == 1


def _wide(matrix: Tensor) -> Tensor:
    matrix = matrix.cpu() if matrix.device.type == "mps" else matrix
    return matrix.double()
