"""lambda2, how slowly a chain forgets where it started (paper, section 4.4), and the other leading eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention_chains.chain import arnoldi, eigen
from attention_chains.chain.arnoldi import Krylov, Ritz
from attention_chains.chain.derived import Teleported
from attention_chains.chain.operators import Operator, bounce_rows, single
from attention_chains.chain.precision import full_precision, widest_dtype
from attention_chains.chain.recording import unrecorded

ABSOLUTE_FLOOR = 1e-6  # lambda2 and its error count as zero up to here
RELATIVE, ABSOLUTE = 3e-2, 3e-3  # errors to stop at, as shares of the tolerance, the smaller of both (see `_enough`)
LEAST = 1e-9  # error that is small enough for any eigenvalue
COARSE = 1e-4  # tolerance below which no less is asked for on that account: float32 would not give it
SPARE = 2  # eigenvalues to find beyond several: for the last of them a larger one can be missed
FIRST_LOOK, LONGEST_WAIT = 16, 16  # vectors in a basis when it is first looked at; and to bounce at most between looks
CHEAP = 512  # tokens up to which some bounces cost less than a look
LAP = 10  # vectors between looks at such chains, at all of them at once
DEAR = 2048  # tokens from which any bounce costs more than a look
EAGER, PATIENT = 0.8, 1.2  # of the wait that a steady pace would take: where bounces, or looks, cost more
TOGETHER = 2**18  # entries of the float64 matrices whose eigenvalues are all found at once, on the CPU
WORTH_CUTTING = 0.75  # share of the bounced chains that are open still, below which the others are left behind


@dataclass(frozen=True)
class Lambda2Info:
    """How far a lambda2 can be trusted; every field has the chain's batch shape.

    Attributes
    ----------
    error : Tensor
        Estimated absolute error. Of a lambda2 from bounces: the residual, in float64, times the eigenvalue's condition
        number; to first order, some eigenvalue is as near as that. A larger one next to it can hide from the one start
        vector: not seen in 80,000 heads of ordinary kinds, but in 2 of 950 circulant chains, by 3e-4 of it, and in most
        of those at a tolerance of 1e-2. Of a lambda2 from all eigenvalues: the difference between those of P and of its
        transpose, which are the same but for round-off, blown up by that condition number. An estimate, not a bound;
        infinite where nothing is known.
    converged : Tensor
        Whether the error meets the tolerance.
    residual : Tensor
        ``||y P - z y||``, in float64, for the eigenvector y of norm one; zero where all eigenvalues were found.
    passes : Tensor
        Vectors that were bounced, int64; zero where the chain went to all eigenvalues at once.
    ill_posed : Tensor
        Whether round-off alone, in float64, moves lambda2 by more than the tolerance: no algorithm can settle it.
    """

    error: Tensor
    converged: Tensor
    residual: Tensor
    passes: Tensor
    ill_posed: Tensor


@dataclass
class _Eigenvalues:
    """Leading eigenvalues of one chain, by falling modulus, with what is known of each; all zero before they are found.

    After bounces: whether the error is small enough, `settled`, by how much it is not, `off`, one or less where it is,
    and whether the round-off of the type that was bounced in left it so, `coarse`. `complete` if from all eigenvalues.
    """

    values: list[complex]
    residual: list[float]
    condition: list[float]
    error: list[float]
    passes: int = 0
    off: float = math.inf
    settled: bool = False
    coarse: bool = False
    complete: bool = False

    @classmethod
    def none(cls, count: int) -> _Eigenvalues:
        return cls([0j] * count, [0.0] * count, [0.0] * count, [0.0] * count)


@torch.no_grad()
def lambda2(operator: Operator, tol: float = 1e-4) -> Tensor:
    """Return the second largest eigenvalue modulus, (*batch_shape,), in the widest type of the device."""
    alpha, bare = _without_teleport(operator)
    return _shaped(_modulus(alpha, _leading(bare, 1, tol)), operator)


@torch.no_grad()
def lambda2_with_info(operator: Operator, tol: float) -> tuple[Tensor, Lambda2Info]:
    """Return lambda2 and how far it can be trusted."""
    alpha, bare = _without_teleport(operator)
    found = _leading(bare, 1, tol, certify=True)
    value, error = _modulus(alpha, found), alpha * _tensor([one.error[0] for one in found])
    converged = error <= (tol * value).clamp(min=_floor(tol))
    residual = alpha * _tensor([one.residual[0] for one in found])
    passes = torch.tensor([one.passes for one in found], dtype=torch.int64)
    complete = torch.tensor([one.complete for one in found], dtype=torch.bool)
    parts = (error, converged, residual, passes, complete & ~converged)
    return _shaped(value, operator), Lambda2Info(*(_shaped(part, operator) for part in parts))


@torch.no_grad()
def spectrum(operator: Operator, k: int, tol: float = 1e-4) -> Tensor:
    """Return the k leading eigenvalues, (*batch_shape, k) complex; see `AttentionChain.spectrum`."""
    alpha, bare = _without_teleport(operator)
    one = torch.ones(operator.batch_shape.numel(), 1, dtype=torch.complex128)
    rest = one[:, :0]
    if k > 1:
        wanted = k - 1 if k == 2 else min(k - 1 + SPARE, operator.n - 1)
        found = _leading(bare, wanted, tol)
        rest = alpha * _tensor([each.values[: k - 1] for each in found], one.dtype).view(-1, k - 1)
    wide = torch.complex64 if operator.device.type == "mps" else torch.complex128
    return torch.cat([one, rest], -1).to(operator.device, wide).view(*operator.batch_shape, k)


def _without_teleport(operator: Operator) -> tuple[float, Operator]:
    """Teleport scales every eigenvalue but the first by alpha, exactly: return that factor and the bare operator."""
    alpha = 1.0
    while isinstance(operator, Teleported):
        alpha, operator = alpha * operator.alpha, operator.base
    return alpha, operator


def _leading(operator: Operator, count: int, tol: float, certify: bool = False) -> list[_Eigenvalues]:
    """Return the `count` eigenvalues that lead after the 1, from Krylov passes, or from all of them where need be."""
    chains, held = operator.batch_shape.numel(), arnoldi.capacity(operator.n, count)[0]
    found = [_Eigenvalues.none(count) for _ in range(chains)]
    if operator.n == 1 or chains == 0:
        return [replace(one, settled=True, complete=True) for one in found]
    with full_precision(operator.device):
        if not eigen.may_form(operator) or operator.n > 2 * held:
            wide = widest_dtype(operator.device)
            own = operator.dtype if tol >= arnoldi.SINGLE else wide
            found = _by_krylov(eigen.pieces(operator), count, tol, certify, own)
            for chain, one in enumerate(found):
                if one.coarse and own != wide:
                    found[chain] = _by_krylov([single(operator, chain)], count, tol, certify, wide)[0]
                    found[chain].passes += one.passes
        if eigen.may_form(operator):
            left = [chain for chain in range(chains) if not found[chain].settled]
            few = max(1, TOGETHER // operator.n**2)
            for first in range(0, len(left), few):
                _by_all(operator, left[first : first + few], found, certify)
    return found


def _by_krylov(pieces: list[Operator], count: int, tol: float, certify: bool, dtype: torch.dtype) -> list[_Eigenvalues]:
    """Bounce a few vectors in a type until the residual, times the condition number, meets the tolerance."""
    found: list[_Eigenvalues] = []
    with unrecorded():
        krylov: Krylov | None = None
        for piece in pieces:
            if krylov is not None and krylov.chains == piece.batch_shape.numel():
                krylov.begin(piece)
            else:
                krylov = Krylov(piece, dtype, count)
            vectors = krylov.basis.new_zeros(krylov.chains if certify else 0, 2, count, piece.n)
            part = _search(krylov, tol, vectors)
            if certify:
                _certify(part, piece, vectors, tol)
            found += part
    return found


def _search(krylov: Krylov, tol: float, vectors: Tensor) -> list[_Eigenvalues]:
    """Settle the chains, or give them up at the limit; those that are done are bounced no more, where that can be.

    Their Ritz vectors are written where there is a place for them.
    """
    found = [_Eigenvalues.none(krylov.count) for _ in range(krylov.chains)]
    places = list(range(krylov.chains))  # in `found`, of the chains that are bounced
    soonest = max(2 * LAP if krylov.n < CHEAP else FIRST_LOOK, 2 * krylov.block)
    due = dict.fromkeys(places, soonest)  # vectors to have bounced when each open chain, of those bounced, is looked at
    while due and krylov.passes < krylov.limit:
        krylov.grow(min(due.values()))
        last = krylov.passes >= krylov.limit
        now = [chain for chain, at in due.items() if at <= krylov.passes or krylov.full or last]
        ritz = krylov.ritz(now)
        done = []  # of those that are looked at
        for index, (chain, seen) in enumerate(zip(now, _seen(ritz, krylov, tol), strict=True)):
            if seen.off <= 1 or seen.coarse or last:
                found[places[chain]] = seen
                done.append(index)
                del due[chain]
            else:
                due[chain] = _next_look(seen.off, krylov, tol)
        if done and len(vectors):
            vectors[[places[now[index]] for index in done]] = krylov.vectors(ritz, now)[done]
        if krylov.divisible and 0 < len(due) < WORTH_CUTTING * krylov.chains:
            krylov.select(list(due))
            places, due = [places[chain] for chain in due], dict(enumerate(due.values()))
    return found


def _seen(ritz: Ritz, krylov: Krylov, tol: float) -> list[_Eigenvalues]:
    """Return what a look has shown of some chains. All here is in Python's numbers: tensors so small take longer.

    A condition number is at least one: it is computed only where the residual alone is small enough, else infinite.
    Where round-off of the bounces' type alone moves an eigenvalue by more than the tolerance, it is coarse: so it does
    those of causal attention, whose matrices are triangular, far from normal.
    """
    unknown = [math.inf] * krylov.count
    every = []
    for values, residual in zip(ritz.values.tolist(), ritz.residual.tolist(), strict=True):
        every.append(_Eigenvalues(values, residual, unknown, unknown, krylov.passes, _off(values, residual, tol)))
    near = [index for index, one in enumerate(every) if one.off <= 1]
    if near:
        round_off = torch.finfo(krylov.basis.dtype).eps
        for one, condition in zip([every[index] for index in near], ritz.condition(near), strict=True):
            one.condition, one.error = condition, _errors(one.residual, condition)
            one.off = _off(one.values, one.error, tol)
            one.coarse = any(
                math.isfinite(times) and round_off * times > _allowed(value, tol)
                for value, times in zip(one.values, condition, strict=True)
            )
            one.settled = one.off <= 1 and not one.coarse
    return every


def _errors(residual: list[float], condition: list[float]) -> list[float]:
    """Return residuals times condition numbers, infinite where those are."""
    return [math.inf if math.isinf(times) else off * times for off, times in zip(residual, condition, strict=True)]


def _off(values: list[complex], errors: list[float], tol: float) -> float:
    """Return the largest of the eigenvalues' errors over the errors to stop at."""
    return max(error / _enough(value, tol) for value, error in zip(values, errors, strict=True))


def _enough(value: complex, tol: float) -> float:
    """Return the error to stop at for an eigenvalue: less than what the tolerance asks for.

    Two eigenvalues that differ by g look like one, with a residual of g times the start's part along the one over that
    along the other: the less is asked for, the rarer a start that hides the larger one.
    """
    coarse = max(tol, COARSE)
    return min(_allowed(value, tol) / 2, max(min(RELATIVE * coarse * abs(value), ABSOLUTE * coarse), LEAST))


def _allowed(value: complex, tol: float) -> float:
    """Return the error that the tolerance allows an eigenvalue."""
    return max(tol * abs(value), _floor(tol))


def _next_look(off: float, krylov: Krylov, tol: float) -> int:
    """Return how many vectors will have been bounced when a chain is worth looking at again.

    The error falls by about the same factor with every vector; it began at about the eigenvalue itself.
    """
    whole = 1 / (RELATIVE * max(tol, COARSE))  # how far off it was then
    off = min(max(1 + tol, off), whole / 10)
    pace = math.log(whole / off) / krylov.passes
    share, shortest = (EAGER, 2) if krylov.n >= DEAR else (PATIENT, 3)
    due = krylov.passes + int(min(max(share * math.log(off) / pace, shortest * krylov.block), LONGEST_WAIT))
    return -(-due // LAP) * LAP if krylov.n < CHEAP else due


def _certify(found: list[_Eigenvalues], operator: Operator, vectors: Tensor, tol: float) -> None:
    """Measure residuals anew, in the device's widest type, by a bounce of each vector; unsettle what is not as good."""
    wide = vectors.to(widest_dtype(operator.device))
    wide = wide / torch.linalg.vector_norm(wide, dim=(1, 3), keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
    images = bounce_rows(operator, wide.flatten(1, 2)).view_as(wide)
    values = torch.tensor([one.values for one in found], dtype=torch.complex128)
    for one, residual in zip(found, eigen.residuals(values, wide, images).tolist(), strict=True):
        one.residual, one.error = residual, _errors(residual, one.condition)
        good = all(error <= _allowed(value, tol) for value, error in zip(one.values, one.error, strict=True))
        one.coarse |= one.settled and not good
        one.settled &= good


def _by_all(operator: Operator, chains: list[int], found: list[_Eigenvalues], certify: bool) -> None:
    """Find all eigenvalues of chains in float64, and with them those of their transposes to see what round-off does.

    Small ones go to the CPU, which is fastest for them, all at once: that costs a GPU one wait.
    """
    matrices = torch.stack([eigen.formed(operator, chain) for chain in chains])
    if operator.n**2 <= TOGETHER:
        matrices = matrices.cpu()
    for chain, every in zip(chains, eigen.eigenvalues(matrices), strict=True):
        one, values = found[chain], _after_the_first(every).tolist()
        one.values = _first(values, len(one.values))
        one.residual, one.settled, one.complete = [0.0] * len(one.values), True, True
    if certify:
        for chain, every in zip(chains, eigen.eigenvalues(matrices.mT), strict=True):
            one, values = found[chain], _after_the_first(every).tolist()
            others = _first(values, len(one.values))
            one.error = [abs(abs(a) - abs(b)) for a, b in zip(one.values, others, strict=True)]


def _first(values: list[complex], count: int) -> list[complex]:
    """Return so many values, with zeros behind those that there are."""
    return (values + [0j] * count)[:count]


def _after_the_first(values: Tensor) -> Tensor:
    """Return the eigenvalues without the 1 that every chain has, by falling modulus, pairs adjacent, on the CPU."""
    values = values[torch.arange(len(values)) != (values - 1).abs().argmin()]
    return values[values.abs().argsort(descending=True, stable=True)]


def _floor(tol: float) -> float:
    """Absolute error that always will do: lambda2 of a chain of rank one is zero, and no relative error fits it."""
    return min(ABSOLUTE_FLOOR, tol / 100)


def _modulus(alpha: float, found: list[_Eigenvalues]) -> Tensor:
    return alpha * _tensor([one.values[0] for one in found], torch.complex128).abs().clamp(max=1)


def _tensor(numbers: Sequence[complex] | Sequence[list[complex]], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(numbers, dtype=dtype)


def _shaped(values: Tensor, operator: Operator) -> Tensor:
    dtype = widest_dtype(operator.device) if values.is_floating_point() else values.dtype
    return values.to(operator.device, dtype).view(operator.batch_shape)
