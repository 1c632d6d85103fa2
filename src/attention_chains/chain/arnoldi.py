"""Leading eigenvalues and invariant subspaces of chains, from bounces of a few vectors alone.

A thick-restart block Arnoldi method (Stathopoulos, Saad & Wu 1998, in Rayleigh-Ritz form) on a batch of chains at once.
The bounced vectors are kept beside the basis, so that a residual is measured rather than inferred from a recurrence
that round-off may have spoiled. The constant vector stays out of the basis: on states that sum to zero, which bounces
keep so, the eigenvalue 1 of every chain is gone; likewise on the orthogonal complement of the constant vector for A x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from attention_chains.chain import eigen
from attention_chains.chain.eigen import bounce_rows, real_span, residuals, sorted_eigen
from attention_chains.chain.operators import DenseOperator, Operator, widest_dtype

FEWEST = 2  # vectors bounced at a time: one takes a mean of two eigenvalues of nearly the same modulus
LOOKS = (8, 12, 18, 28, 40)  # sizes of a first basis at which its projected matrix is solved before it is full
ALIVE = 1e-3  # a vector that loses more than this in the second orthogonalisation was round-off: leave it out
SINGLE = 1e-5  # smallest tolerance that bounces in float32 can meet
LIMIT = 400  # vectors to bounce, and half the number of tokens, before all eigenvalues are the better way


@dataclass(frozen=True)
class Ritz:
    """Approximate leading eigenpairs, on the CPU but for the vectors.

    ``values`` (B, count) complex128, by falling modulus, conjugate pairs adjacent; ``vectors`` (B, 2, count, n), real
    and imaginary parts, of norm one; ``residual`` (B, count) float64; ``coefficients`` (B, size, size) of all vectors.
    """

    values: Tensor
    vectors: Tensor
    residual: Tensor
    coefficients: Tensor

    def condition(self, chains: Tensor) -> Tensor:
        """Return the eigenvalues' condition numbers for some of the chains, (chains, count), as projected.

        They are the lengths of the rows of the eigenvectors' inverse.
        """
        vectors, count = self.coefficients[chains], self.values.shape[1]
        unit = torch.eye(vectors.shape[-1], count, dtype=vectors.dtype).expand(*vectors.shape[:-1], count)
        rows, singular = torch.linalg.solve_ex(vectors.mT, unit)
        length = torch.linalg.vector_norm(rows, dim=-2).double()
        return length.masked_fill(length.isnan() | (singular != 0).unsqueeze(-1), torch.inf)


class Krylov:
    """Growing bases for a flat batch of B chains, and what a bounce makes of each vector, in `dtype`.

    As many vectors are bounced at a time as eigenpairs are wanted, `count`, so that a multiple eigenvalue is found as
    often as it is one. `transposed` bounces by ``v A^T``. `centred` keeps the constant vector out.
    """

    def __init__(
        self, operator: Operator, dtype: torch.dtype, count: int, transposed: bool = False, centred: bool = True
    ):
        self.operator, self.transposed, self.count, self.block = operator, transposed, count, max(count, FEWEST)
        self.capacity, self.keep = capacity(operator.n, count)
        self.limit = LIMIT + operator.n // 2
        self.passes, self._first = 0, int(centred)  # vectors bounced in all; row of the first of them
        self._behind = self._first  # row of the newest block, which is not bounced yet
        shape = (operator.batch_shape.numel(), self._first + self.capacity + self.block, operator.n)
        self._basis = torch.zeros(shape, dtype=dtype, device=operator.device)
        self._images = torch.zeros_like(self._basis)
        self._basis[:, : self._first] = operator.n**-0.5
        self._basis[:, self._newest] = _orthonormal(_start(self.block, self._basis), self._basis[:, : self._first])

    @property
    def basis(self) -> Tensor:
        """The bounced vectors, (B, size, n): orthonormal, or zero if left out."""
        return self._basis[:, self._first : self._behind]

    @property
    def images(self) -> Tensor:
        """What became of them, (B, size, n)."""
        return self._images[:, self._first : self._behind]

    @property
    def size(self) -> int:
        """Number of vectors in the basis."""
        return self._behind - self._first

    @property
    def full(self) -> bool:
        """Whether there is no place for another block."""
        return self.size + self.block > self.capacity

    def expand(self) -> None:
        """Bounce the newest block, and put what is new in it behind."""
        rows = self._newest
        self._images[:, rows] = bounced = self._bounce(self._basis[:, rows])
        self._behind, self.passes = rows.stop, self.passes + self.block
        self._basis[:, self._newest] = _orthonormal(bounced, self._basis[:, : self._behind])

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return eigenvalues (B, size) of the projected matrix, leading ones first, and coefficients of vectors."""
        self._values, self._coefficients = sorted_eigen((self.images @ self.basis.mT).mT)
        return self._values, self._coefficients

    def ritz(self) -> Ritz:
        """Solve the projected matrix, and measure its `count` leading pairs."""
        values, coefficients = self.solve()
        values, leading = values[..., : self.count], coefficients[..., : self.count]
        chosen = torch.cat([leading.real, leading.imag], -1).mT.to(self._basis)
        vectors, images = ((chosen @ rows).unflatten(1, (2, self.count)) for rows in (self.basis, self.images))
        return Ritz(values, vectors, residuals(values, vectors, images), coefficients)

    def restart(self) -> None:
        """Keep the span of the leading Ritz vectors, never half a pair, and the newest block; forget the others."""
        kept = real_span(self._values, self._coefficients, self.keep).mT.to(self._basis)
        newest, rows = self._basis[:, self._newest].clone(), slice(self._first, self._first + self.keep)
        self._basis[:, rows], self._images[:, rows] = kept @ self.basis, kept @ self.images
        self._behind = rows.stop
        self._basis[:, self._newest] = newest

    def select(self, chains: Tensor) -> None:
        """Go on with these chains of the batch alone, given in order."""
        if len(chains) == len(self._basis):
            return
        self._values, self._coefficients = self._values[chains], self._coefficients[chains]
        chains = chains.to(self._basis.device)
        self.operator = _cut(self.operator, chains)
        self._basis, self._images = self._basis[chains], self._images[chains]

    @property
    def _newest(self) -> slice:
        return slice(self._behind, self._behind + self.block)

    def _bounce(self, rows: Tensor) -> Tensor:
        """Bounce (B, rows, n); A x leaves the complement of the constant vector, so its part there is dropped."""
        bounced = bounce_rows(self.operator, rows, self.transposed)
        return bounced - bounced.mean(-1, keepdim=True) if self._first and self.transposed else bounced


def looks(krylov: Krylov) -> Iterator[None]:
    """Grow a basis, pausing where `Krylov.solve` must be called; restart it where it is full, up to its limit."""
    due = [*LOOKS, krylov.capacity]
    while krylov.passes < krylov.limit:
        if krylov.full:
            krylov.restart()
            due = [krylov.capacity]  # what did not converge at first is far from it: look only when full
        krylov.expand()
        if krylov.full or krylov.size >= max(due[0], 2 * krylov.block) or krylov.passes >= krylov.limit:
            yield
            due = [size for size in due if size > krylov.size]


def divisible(operator: Operator) -> TypeGuard[DenseOperator]:
    """Whether some chains of a flat batch can be bounced without the others."""
    return isinstance(operator, DenseOperator)


def _cut(operator: Operator, chains: Tensor) -> Operator:
    """Return a copy of these chains of a flattened batch."""
    assert divisible(operator), "only stored matrices can be cut"
    return DenseOperator(operator.matrix.flatten(0, -3)[chains], operator.scale.flatten(0, -2)[chains])


def capacity(n: int, count: int) -> tuple[int, int]:
    """Return how many vectors to hold for `count` eigenpairs of n tokens, and how many to keep at a restart.

    With fewer, a restart can lose the second eigenvalue among many of nearly its modulus. All eigenvalues of up to
    twice as many tokens as vectors are held are found as fast.
    """
    held = max(40 if n < 512 else 60, 5 * count)
    return held, max(held // 3, count + 4)


def _start(block: int, like: Tensor) -> Tensor:
    """Return random vectors (B, block, n), the same for every chain of n tokens, whatever else is in the batch."""
    noise = torch.randn(block, like.shape[-1], generator=torch.Generator().manual_seed(0))
    return noise.to(like).expand(len(like), -1, -1)


def _orthonormal(rows: Tensor, behind: Tensor) -> Tensor:
    """Make (B, block, n) orthonormal to (B, others, n) and to each other; zero where nothing new is left."""
    rows = torch.baddbmm(rows, rows @ behind.mT, behind, alpha=-1)
    length = torch.linalg.vector_norm(rows, dim=-1)
    rows = torch.baddbmm(rows, rows @ behind.mT, behind, alpha=-1)
    unit, upper = torch.linalg.qr(rows.mT)
    alive = upper.diagonal(dim1=-2, dim2=-1).abs() > ALIVE * length
    return unit.mT * alive.unsqueeze(-1)


@dataclass(frozen=True)
class Subspace:
    """Real invariant subspaces of a batch of chains, one for each.

    Attributes
    ----------
    basis : Tensor
        (*batch_shape, n, m): orthonormal columns; a chain with fewer than m of them has zero columns behind. The first
        columns span the subspace of the first eigenvalues, but in the middle of a conjugate pair. In a right subspace
        the first column is constant.
    eigenvalues : Tensor
        (*batch_shape, m) complex, on the CPU: by falling modulus, conjugate pairs adjacent; zero where the column is.
        Those of a right subspace begin with the 1 of the constant vector.
    size : Tensor
        (*batch_shape,) int64, on the CPU: how many columns each chain has, k, or k + 1 so as not to split a pair.
    residual : Tensor
        (*batch_shape,): Frobenius norm of ``A Q - Q Q^T A Q``, or of the same for A^T.
    converged : Tensor
        (*batch_shape,) bool: whether the residual meets the tolerance.
    """

    basis: Tensor
    eigenvalues: Tensor
    size: Tensor
    residual: Tensor
    converged: Tensor


@torch.no_grad()
def leading_subspace(operator: Operator, k: int, transposed: bool = False, tol: float = 1e-5) -> Subspace:
    """Return invariant subspaces of the k eigenvalues of largest modulus, in the device's widest type.

    Parameters
    ----------
    operator : Operator
        Chains A, (*batch_shape, n, n).
    k : int
        How many eigenvalues, the 1 of every chain included; 1 to n.
    transposed : bool
        Whether to take the right subspaces, ``A Q = Q M``, which hold the constant vector, rather than the left ones,
        ``A^T Q = Q M``.
    tol : float
        Residual to stop at. Not below 1e-5 for bounces in float32.
    """
    count, chains = k - transposed, operator.batch_shape.numel()  # a right subspace's constant vector is known
    rows = torch.zeros(chains, count + 1, operator.n, dtype=widest_dtype(operator.device), device=operator.device)
    values = torch.zeros(chains, count + 1, dtype=torch.complex128)
    with torch.autocast(operator.device.type, enabled=False):
        if count and chains:
            _fill(operator, transposed, tol, rows, values)
        return _measured(operator, transposed, tol, rows, values)


def _fill(operator: Operator, transposed: bool, tol: float, rows: Tensor, values: Tensor) -> None:
    """Write bases (B, count + 1, n) and eigenvalues (B, count + 1), from Krylov passes or from all eigenvectors."""
    may_form, held = eigen.may_form(operator), capacity(operator.n, values.shape[1] - 1)[0]
    done = torch.zeros(len(values), dtype=torch.bool)
    if not may_form or operator.n > 2 * held:
        first = 0
        for piece in eigen.pieces(operator):
            part = slice(first, first + piece.batch_shape.numel())
            done[part] = _span_by_krylov(piece, transposed, tol, rows[part], values[part])
            first = part.stop
    for chain in (~done).nonzero().flatten().tolist() if may_form else ():
        values[chain], basis = eigen.leading_span(eigen.formed(operator, chain), values.shape[1] - 1, transposed)
        rows[chain] = basis.mT.to(rows)


def _span_by_krylov(operator: Operator, transposed: bool, tol: float, rows: Tensor, values: Tensor) -> Tensor:
    """Write the spans of the leading Ritz vectors once their residual is small; tell where it is, (B,)."""
    count, done = values.shape[1] - 1, torch.zeros(len(values), dtype=torch.bool)
    dtype = operator.dtype if tol >= SINGLE else rows.dtype
    krylov = Krylov(operator, dtype, count, transposed, centred=transposed)
    for _ in looks(krylov):
        ritz, coefficients = krylov.solve()
        span, kept = eigen.unsplit(ritz, coefficients, count)
        basis, images = (span.mT.to(krylov.basis) @ part for part in (krylov.basis, krylov.images))
        off = torch.linalg.matrix_norm(images - images @ basis.mT @ basis).cpu()
        fresh = ~done
        rows[fresh.to(rows.device)], values[fresh] = basis.to(rows)[fresh.to(rows.device)], kept[fresh]
        done |= off <= tol / 2
        if done.all():
            break
    return done


def _measured(operator: Operator, transposed: bool, tol: float, rows: Tensor, values: Tensor) -> Subspace:
    """Put the constant vector in front of a right subspace, make the bases orthonormal, and measure the residuals."""
    count = values.shape[1] - 1
    if transposed:
        constant = torch.full_like(rows[:, :1], operator.n**-0.5)
        rows, values = torch.cat([constant, rows], 1), torch.cat([torch.ones_like(values[:, :1]), values], 1)
    rows, values = rows[:, : operator.n], values[:, : operator.n]  # with all eigenvalues, none completes a pair
    alive = (rows != 0).any(-1, keepdim=True)
    unit, upper = torch.linalg.qr(rows.mT)
    basis = unit.mT * torch.where(alive, upper.diagonal(dim1=-2, dim2=-1).unsqueeze(-1).sign(), 0)
    images = bounce_rows(operator, basis, transposed) if len(basis) else basis
    residual = torch.linalg.matrix_norm(images - images @ basis.mT @ basis)
    size = alive.squeeze(-1).sum(-1)
    held = max(count + transposed, int(size.max())) if len(size) else count + transposed
    shape = operator.batch_shape
    return Subspace(
        basis[:, :held].mT.reshape(*shape, operator.n, held),
        values[:, :held].reshape(*shape, held),
        size.cpu().view(shape),
        residual.view(shape),
        (residual <= tol).view(shape),
    )
