"""Leading eigenvalues and invariant subspaces of chains, from bounces of a few vectors alone.

A thick-restart Arnoldi method (the real Krylov-Schur form of Stewart 2001, with blocks where several eigenvalues are
wanted) on a batch of chains at once. The constant vector stays out of the basis: on states that sum to zero, which
bounces keep so, the eigenvalue 1 of every chain is gone; likewise on the orthogonal complement of the constant vector
for A x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain import eigen
from attention_chains.chain.basis import Basis, random_rows
from attention_chains.chain.eigen import by_modulus, ordered, real_span, small_eigen, sorted_eigen
from attention_chains.chain.operators import DenseOperator, Operator, bounce_rows, bouncing
from attention_chains.chain.precision import full_precision, widest_dtype

LOST = 8  # round-offs of an image as long as images can be: what is left of one below that is noise
SINGLE = 1e-5  # smallest tolerance that bounces in float32 can meet
PAIR = 2  # vectors to bounce at a time for a span: from one, another eigenvalue of nearly the same size can hide
LIMIT = 400  # vectors to bounce, and half the number of tokens, before all eigenvalues are the better way


@dataclass(frozen=True)
class Ritz:
    """Approximate leading eigenpairs of some chains, on the CPU.

    ``values`` (B, count) complex128, by falling modulus, conjugate pairs adjacent; ``residual`` (B, count) float64, of
    vectors of norm one; ``leading`` (B, size, count) complex: those vectors in the basis. ``places`` (B, count): where
    they are among all vectors, ``coefficients`` (B, size, size), which are in no order.
    """

    values: Tensor
    residual: Tensor
    leading: Tensor
    places: Tensor
    coefficients: Tensor

    def condition(self, chains: list[int]) -> list[list[float]]:
        """Return the eigenvalues' condition numbers for some of the chains, (chains, count), as projected.

        They are the lengths of the rows of the eigenvectors' inverse; infinite where there is none.
        """
        vectors, places = self.coefficients, self.places
        if len(chains) < len(vectors):
            vectors, places = vectors[chains], places[chains]
        wanted = torch.zeros(len(vectors), vectors.shape[-1], places.shape[-1], dtype=vectors.dtype)
        rows, singular = torch.linalg.solve_ex(vectors.mT, wanted.scatter_(1, places.unsqueeze(1), 1))
        lengths = torch.linalg.vector_norm(rows, dim=-2).tolist()
        return [
            [math.inf if none or math.isnan(length) else length for length in each]
            for each, none in zip(lengths, singular.tolist(), strict=True)
        ]


class Krylov:
    """Growing bases for the B chains of an operator's flattened batch, and what bounces make of them, in `dtype`.

    As many vectors are bounced at a time as eigenpairs are wanted, `count`, so that a multiple eigenvalue is found as
    often as it is one; or `fewest`, if that is more. `transposed` bounces by ``v A^T``. `centred` keeps the constant
    vector out.
    """

    def __init__(
        self,
        operator: Operator,
        dtype: torch.dtype,
        count: int,
        transposed: bool = False,
        centred: bool = True,
        fewest: int = 1,
    ):
        self.count, self.block, self._transposed = count, max(count, fewest), transposed
        n, device, chains = operator.n, operator.device, operator.batch_shape.numel()
        self.capacity, self.keep = capacity(n, count)
        self.limit = LIMIT + n // 2
        self._start = random_rows(self.block, n, centred).to(dtype).to(device)
        self._basis = Basis(chains, n, int(centred), self.block, self.capacity, dtype, device)
        self._most_noise = LOST * torch.finfo(dtype).eps * n**0.5
        self.begin(operator)

    def begin(self, operator: Operator) -> None:
        """Start anew, in the same memory, with as many other chains of as many tokens."""
        self.passes, self.size = 0, 0  # vectors bounced in all, and those of them in the basis
        self._compressed = 0  # vectors at the front of the basis that a restart has put there
        self._kept: Tensor | None = None  # coefficients of what a restart keeps, where they are known
        self._basis.rows[:, : len(self._start)] = self._start
        self._basis.images.zero_()
        self._bounce_chains_of(operator)
        self._measured_noise: Tensor | None = None

    @property
    def chains(self) -> int:
        """Number of chains that are bounced."""
        return len(self._basis.rows)

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self._basis.rows.shape[-1]

    @property
    def basis(self) -> Tensor:
        """The bounced vectors, (B, size, n): orthonormal, or zero if left out."""
        return self._basis.rows[:, self._basis.fixed : self._basis.fixed + self.size]

    @property
    def full(self) -> bool:
        """Whether there is no place for another block."""
        return self.size + self.block > self.capacity

    @property
    def divisible(self) -> bool:
        """Whether some of the chains can be bounced without the others."""
        return isinstance(self._operator, DenseOperator)

    def grow(self, passes: int | None = None) -> None:
        """Bounce the newest block and put what is new in it behind: once, or until so many vectors were bounced.

        At least once; it stops early at the limit, and where the basis is full. A full one is restarted first.
        """
        if self.full:
            self.restart()
        block, rows = self.block, self._basis.rows
        wanted = 1 if passes is None else min(passes, self.limit) - self.passes
        steps = max(1, min(-(-wanted // block), (self.capacity - self.size) // block))
        first = self._basis.fixed + self.size + block  # of the rows that there are, the last block is not bounced yet
        for end in range(first, first + steps * block, block):
            images = self._bounce(rows.narrow(1, end - block, block))
            for index in range(block):
                self._append(images if block == 1 else images.narrow(1, index, 1), end + index)
        self.size, self.passes = self.size + steps * block, self.passes + steps * block

    def _append(self, image: Tensor, place: int) -> None:
        """Put at a place what is new in an image, (B, 1, n), made a unit vector.

        Where that is no more than `_noise` it becomes zero: the basis is closed, and noise made a unit vector would not
        be orthogonal to it for long.
        """
        row, length, new = self._basis.split(image, place)
        if not self._basis.readable:
            torch.div(row, length.masked_fill(length <= self._noise, torch.inf), out=new)
        elif (norm := length.item()) > self._most_noise or norm > self._noise.item():
            torch.div(row, length, out=new)
        else:
            new.zero_()
            length.zero_()

    @property
    def _noise(self) -> Tensor:
        """Length of what round-off leaves of an image that lies within the basis, (B, 1, 1).

        No image is longer than the root of the largest column sum, ||A||_2^2 <= ||A||_1 ||A||_inf, and none of those is
        larger than n: what is longer than `_most_noise` asks for no sums.
        """
        if self._measured_noise is None:
            sums = bounce_rows(self._operator, self._basis.rows.new_ones(self.chains, 1, self.n))
            self._measured_noise = sums.amax(-1, keepdim=True).clamp(min=1).sqrt() * self._most_noise / self.n**0.5
        return self._measured_noise

    def projected(self, chains: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return what bounces make of the basis, for all or some chains in order, on the CPU: in its span, and outside.

        The first (B, size, size) holds in column j what vector j becomes; the second (B, block, size) what of it lies
        along the block that is not bounced yet. Nothing else is left: a bounce of the basis stays within both. What a
        batch's lost rows were before is forgotten here, once for all of them.
        """
        if not self._basis.readable:
            lengths = self._basis.images.diagonal(self._basis.fixed + self.block, 1, 2)[:, self._compressed :]
            lengths.masked_fill_(lengths <= self._noise.squeeze(-1), 0)  # of lost rows
        part = self._some(self._columns, chains).cpu()
        return part[:, : self.size], part[:, self.size :]

    def ritz(self, chains: Sequence[int]) -> Ritz:
        """Solve the projected matrices of these chains, and measure their `count` leading pairs."""
        inside, outside = self.projected(chains)
        values, coefficients = small_eigen(inside)
        order = by_modulus(values)
        if self.full:  # no other chain is asked for before the restart
            self._kept = torch.zeros(self.chains, self.size, self.keep, dtype=inside.dtype)
            self._kept[chains] = real_span(*ordered(values, coefficients, order), self.keep)
        places = order[..., : self.count]
        values, leading = ordered(values, coefficients, places)
        residual = torch.linalg.vector_norm(outside.to(leading.dtype) @ leading, dim=1).double()
        return Ritz(values, residual, leading, places, coefficients)

    def vectors(self, ritz: Ritz, chains: Sequence[int]) -> Tensor:
        """Return the leading Ritz vectors of these chains, of norm one: (chains, 2, count, n), real and imaginary."""
        chosen = torch.cat([ritz.leading.real, ritz.leading.imag], -1).mT.to(self._basis.rows)
        return (chosen @ self._some(self.basis, chains)).unflatten(1, (2, self.count))

    def restart(self) -> None:
        """Keep the span of the leading Ritz vectors, never half a pair, and the newest block; forget the others."""
        kept = self._kept  # (B, size, keep)
        if kept is None:
            kept = real_span(*sorted_eigen(self.projected()[0]), self.keep)
        kept, self._kept = kept.to(self._basis.rows), None
        part = self._columns @ kept  # (B, size + block, keep)
        newest, basis = self._newest.clone(), kept.mT @ self.basis
        inside, outside = kept.mT @ part[:, : self.size], part[:, self.size :]
        self._basis.images.zero_()
        self.size = self._compressed = self.keep
        self._columns.copy_(torch.cat([inside, outside], 1))
        self.basis.copy_(basis)
        self._newest.copy_(newest)

    def select(self, chains: Sequence[int]) -> None:
        """Go on with these chains of the batch alone, given in order."""
        self._kept = None if self._kept is None else self._kept[chains]
        assert isinstance(self._operator, DenseOperator), "of other batches no part can be bounced alone"
        indices = torch.tensor(chains, device=self._basis.rows.device)
        self._measured_noise = self._noise[indices]
        self._basis.select(indices)
        self._bounce_chains_of(eigen.taken(self._operator, indices))

    def _bounce_chains_of(self, operator: Operator) -> None:
        self._operator = operator
        self._bounce = bouncing(operator, self.block, self._basis.rows.dtype, self._transposed)

    def _some(self, each: Tensor, chains: Sequence[int] | None) -> Tensor:
        """Take some chains' part, given in order, of what is there for each; without a copy if they are all."""
        if chains is None or len(chains) == len(each):
            return each
        return each[torch.tensor(chains, device=each.device)]

    @property
    def _columns(self) -> Tensor:
        """What each basis vector becomes, in terms of the basis and of the newest block, (B, size + block, size)."""
        fixed = self._basis.fixed
        return self._basis.images[:, : self.size, fixed : fixed + self.size + self.block].mT

    @property
    def _newest(self) -> Tensor:
        """The block that is not bounced yet, (B, block, n)."""
        return self._basis.rows.narrow(1, self._basis.fixed + self.size, self.block)


def capacity(n: int, count: int) -> tuple[int, int]:
    """Return how many vectors to hold for `count` eigenpairs of n tokens, and how many to keep at a restart.

    With fewer, a restart can lose the second eigenvalue among many of nearly its modulus. All eigenvalues of up to
    twice as many tokens as vectors are held are found as fast.
    """
    held = max(40 if n < 512 else 60, 5 * count)
    return held, max(held // 3, count + 4)


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
    with full_precision(operator.device):
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
    krylov = Krylov(operator, dtype, count, transposed, centred=transposed, fewest=PAIR)
    while krylov.passes < krylov.limit and not done.all():
        krylov.grow()
        if krylov.size < 2 * krylov.block:
            continue
        inside, outside = krylov.projected()
        span, kept = eigen.unsplit(*sorted_eigen(inside), count)
        off = torch.linalg.matrix_norm(torch.cat([inside @ span - span @ (span.mT @ inside @ span), outside @ span], 1))
        fresh = ~done
        rows[fresh.to(rows.device)] = (span.mT.to(krylov.basis) @ krylov.basis).to(rows)[fresh.to(rows.device)]
        values[fresh] = kept[fresh]
        done |= off <= tol / 2
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
