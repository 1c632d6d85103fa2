"""lambda2, how slowly a chain forgets where it started (paper, section 4.4), and the other leading eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from attention_chains.chain import arnoldi, eigen
from attention_chains.chain.arnoldi import Krylov, Ritz
from attention_chains.chain.derived import Teleported
from attention_chains.chain.operators import Operator, single, widest_dtype
from attention_chains.chain.precision import full_precision
from attention_chains.chain.recording import unrecorded

ABSOLUTE_FLOOR = 1e-6  # lambda2 and its error count as zero up to here
RELATIVE, ABSOLUTE = 1e-2, 1e-3  # errors to stop at, as shares of the tolerance, the smaller of both (see `_enough`)
LEAST = 1e-9  # error that is small enough for any eigenvalue
COARSE = 1e-4  # tolerance below which no less is asked for on that account: float32 would not give it
FIRST_LOOK, LONGEST_WAIT = 12, 20  # vectors in a basis when it is first looked at; and to bounce at most between looks
CHEAP = 512  # tokens up to which some bounces cost less than a look
LAP = 10  # vectors between looks at such chains, at all of them at once
DEAR = 2048  # tokens from which any bounce costs more than a look
EAGER, PATIENT = 0.8, 1.4  # of the wait that a steady pace would take: where bounces, or looks, cost more
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
        vector: not seen in 50,000 heads of ordinary kinds, but in 2 of 950 circulant chains, by 3e-4 of it. Of a
        lambda2 from all eigenvalues: the difference between those of P and of its transpose, which are the same but for
        round-off, blown up by that condition number. An estimate, not a bound; infinite where nothing is known.
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
    """Leading eigenvalues of a flat batch of B chains, on the CPU.

    (B, count): `values`, `error`, `residual`, `condition`; (B,): `passes`, whether `settled`, whether `complete`, from
    all eigenvalues, and whether the round-off of the type that it was bounced in left it unsettled, `coarse`.
    """

    values: Tensor
    error: Tensor
    residual: Tensor
    condition: Tensor
    passes: Tensor
    settled: Tensor
    complete: Tensor
    coarse: Tensor

    @classmethod
    def none(cls, chains: int, count: int) -> _Eigenvalues:
        values = torch.zeros(chains, count, dtype=torch.complex128)
        each, flags = values.real, torch.zeros(chains, dtype=torch.bool)
        error, residual, condition = each.clone(), each.clone(), each.clone()
        return cls(values, error, residual, condition, flags.long(), flags.clone(), flags.clone(), flags.clone())

    @classmethod
    def joined(cls, parts: list[_Eigenvalues]) -> _Eigenvalues:
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def replace(self, chain: int, one: _Eigenvalues) -> None:
        """Put what another search found for one chain in its place; the vectors bounced for it before count too."""
        one.passes = one.passes + self.passes[chain]
        for field in fields(self):
            getattr(self, field.name)[chain] = getattr(one, field.name)[0]

    def note(self, chains: list[int], ritz: Ritz, among: list[int], condition: Tensor, passes: int) -> None:
        """Write down the pairs `among` those of a look, and their condition numbers."""
        self.values[chains], self.residual[chains] = ritz.values[among], ritz.residual[among]
        self.condition[chains], self.passes[chains] = condition[among], passes
        self.error[chains] = self.residual[chains] * self.condition[chains]


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
    value, error = _modulus(alpha, found), alpha * found.error[:, 0]
    converged = error <= (tol * value).clamp(min=_floor(tol))
    parts = (error, converged, alpha * found.residual[:, 0], found.passes, found.complete & ~converged)
    return _shaped(value, operator), Lambda2Info(*(_shaped(part, operator) for part in parts))


@torch.no_grad()
def spectrum(operator: Operator, k: int, tol: float = 1e-4) -> Tensor:
    """Return the k leading eigenvalues, (*batch_shape, k) complex; see `AttentionChain.spectrum`."""
    alpha, bare = _without_teleport(operator)
    one = torch.ones(operator.batch_shape.numel(), 1, dtype=torch.complex128)
    rest = alpha * _leading(bare, k - 1, tol).values if k > 1 else one[:, :0]
    wide = torch.complex64 if operator.device.type == "mps" else torch.complex128
    return torch.cat([one, rest], -1).to(operator.device, wide).view(*operator.batch_shape, k)


def _without_teleport(operator: Operator) -> tuple[float, Operator]:
    """Teleport scales every eigenvalue but the first by alpha, exactly: return that factor and the bare operator."""
    alpha = 1.0
    while isinstance(operator, Teleported):
        alpha, operator = alpha * operator.alpha, operator.base
    return alpha, operator


def _leading(operator: Operator, count: int, tol: float, certify: bool = False) -> _Eigenvalues:
    """Return the `count` eigenvalues that lead after the 1, from Krylov passes, or from all of them where need be."""
    chains, held = operator.batch_shape.numel(), arnoldi.capacity(operator.n, count)[0]
    with full_precision(operator.device):
        if operator.n == 1 or chains == 0:
            found = _Eigenvalues.none(chains, count)
            found.complete[:] = True
            return found
        if eigen.may_form(operator) and operator.n <= 2 * held:
            found = _Eigenvalues.none(chains, count)
        else:
            own = operator.dtype if tol >= arnoldi.SINGLE else widest_dtype(operator.device)
            parts = [_by_krylov(each, count, tol, certify, own) for each in eigen.groups(operator)]
            found, wide = _Eigenvalues.joined(parts), widest_dtype(operator.device)
            for chain in found.coarse.nonzero().flatten().tolist() if own != wide else ():
                found.replace(chain, _by_krylov([single(operator, chain)], count, tol, certify, wide))
        if eigen.may_form(operator):
            left, few = (~found.settled).nonzero().flatten().tolist(), max(1, TOGETHER // operator.n**2)
            for first in range(0, len(left), few):
                _by_all(operator, left[first : first + few], found, certify)
        return found


def _by_krylov(
    operators: Sequence[Operator], count: int, tol: float, certify: bool, dtype: torch.dtype
) -> _Eigenvalues:
    """Bounce a few vectors in a type until the residual, times the condition number, meets the tolerance."""
    with unrecorded():
        krylov = Krylov(operators, dtype, count)
        found = _Eigenvalues.none(krylov.chains, count)
        vectors = krylov.basis.new_zeros(krylov.chains if certify else 0, 2, count, operators[0].n)
        _search(krylov, tol, found, vectors)
        if certify:
            _certify(found, operators, vectors, tol)
    return found


def _search(krylov: Krylov, tol: float, found: _Eigenvalues, vectors: Tensor) -> None:
    """Settle the chains, or give them up at the limit; those that are done are bounced no more, where that can be."""
    places = list(range(krylov.chains))  # in `found`, of the chains that are bounced
    soonest = max(2 * LAP if krylov.n < CHEAP else FIRST_LOOK, 2 * krylov.block)
    due = dict.fromkeys(places, soonest)  # vectors to have bounced when each open chain, of those bounced, is looked at
    for _ in arnoldi.grown(krylov):
        last = krylov.passes >= krylov.limit
        if krylov.passes < soonest and not krylov.full and not last:
            continue
        now = [chain for chain, at in due.items() if at <= krylov.passes or krylov.full or last]
        ritz = krylov.ritz(now)
        ratios, condition, coarse = _off(ritz, krylov.basis.dtype, tol)
        done = []  # of those that are looked at
        for index, (chain, ratio, hopeless) in enumerate(zip(now, ratios.tolist(), coarse.tolist(), strict=True)):
            due[chain] = _next_look(ratio, krylov, tol)
            if ratio <= 1 or hopeless or last:
                done.append(index)
                del due[chain]
        if done:
            ready = [places[now[index]] for index in done]
            found.note(ready, ritz, done, condition, krylov.passes)
            found.settled[ready], found.coarse[ready] = (ratios[done] <= 1) & ~coarse[done], coarse[done]
            if len(vectors):
                vectors[ready] = krylov.vectors(ritz, now)[done]
        if not due:
            break
        if krylov.divisible and len(due) < WORTH_CUTTING * krylov.chains:
            krylov.select(list(due))
            places, due = [places[chain] for chain in due], dict(enumerate(due.values()))
        soonest = min(due.values())


def _off(ritz: Ritz, dtype: torch.dtype, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the error over the error that will do, (B,), one or less where it does, and condition numbers (B, count).

    A condition number is at least one: it is computed only where the residual alone is small enough, else infinite.
    And whether round-off of the bounces' type alone moves an eigenvalue by more than the tolerance, (B,): so it does
    those of causal attention, whose matrices are triangular, far from normal.
    """
    size = ritz.values.abs()
    enough = _enough(size, tol)
    ratio = (ritz.residual / enough).amax(-1)
    condition, near = torch.full_like(ritz.residual, torch.inf), ratio <= 1
    coarse = torch.zeros_like(near)
    if near.any():
        condition[near] = found = ritz.condition(near)
        ratio[near] = (ritz.residual[near] * found / enough[near]).amax(-1)
        moved = torch.finfo(dtype).eps * found.where(found.isfinite(), 0)
        coarse[near] = (moved > (tol * size[near]).clamp(min=_floor(tol))).any(-1)
    return ratio, condition, coarse


def _next_look(ratio: float, krylov: Krylov, tol: float) -> int:
    """Return how many vectors will have been bounced when a chain is worth looking at again.

    The error falls by about the same factor with every vector; it began at about the eigenvalue itself.
    """
    whole = 1 / (RELATIVE * max(tol, COARSE))  # the ratio of that beginning
    ratio = min(max(1 + tol, ratio), whole / 10)
    pace = math.log(whole / ratio) / krylov.passes
    share, shortest = (EAGER, 2) if krylov.n >= DEAR else (PATIENT, 3)
    due = krylov.passes + int(min(max(share * math.log(ratio) / pace, shortest * krylov.block), LONGEST_WAIT))
    return -(-due // LAP) * LAP if krylov.n < CHEAP else due


def _certify(found: _Eigenvalues, operators: Sequence[Operator], vectors: Tensor, tol: float) -> None:
    """Measure residuals anew, in the device's widest type, by a bounce of each vector; unsettle what is not as good."""
    wide = vectors.to(widest_dtype(operators[0].device))
    wide = wide / torch.linalg.vector_norm(wide, dim=(1, 3), keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
    images = eigen.bounce_rows(operators, wide.flatten(1, 2)).view_as(wide)
    found.residual = eigen.residuals(found.values, wide, images)
    found.error = found.residual * found.condition
    good = (found.error <= (tol * found.values.abs()).clamp(min=_floor(tol))).all(-1)
    found.coarse |= found.settled & ~good
    found.settled &= good


def _by_all(operator: Operator, chains: list[int], found: _Eigenvalues, certify: bool) -> None:
    """Find all eigenvalues of chains in float64, and with them those of their transposes to see what round-off does.

    Small ones go to the CPU, which is fastest for them, all at once: that costs a GPU one wait.
    """
    matrices, count = torch.stack([eigen.formed(operator, chain) for chain in chains]), found.values.shape[1]
    if operator.n**2 <= TOGETHER:
        matrices = matrices.cpu()
    for chain, every in zip(chains, eigen.eigenvalues(matrices), strict=True):
        values = _after_the_first(every)[:count]
        found.values[chain, : len(values)], found.residual[chain] = values, 0
        found.settled[chain] = found.complete[chain] = True
    if certify:
        for chain, every in zip(chains, eigen.eigenvalues(matrices.mT), strict=True):
            others = _after_the_first(every)[:count]
            found.error[chain, : len(others)] = (found.values[chain, : len(others)].abs() - others.abs()).abs()


def _after_the_first(values: Tensor) -> Tensor:
    """Return the eigenvalues without the 1 that every chain has, by falling modulus, pairs adjacent, on the CPU."""
    values = values[torch.arange(len(values)) != (values - 1).abs().argmin()]
    return values[values.abs().argsort(descending=True, stable=True)]


def _enough(size: Tensor, tol: float) -> Tensor:
    """Return the error to stop at for eigenvalues of these moduli: less than what the tolerance asks for.

    Two eigenvalues that differ by g look like one, with a residual of g times the start's part along the one over that
    along the other: the less is asked for, the rarer a start that hides the larger one.
    """
    asked = (tol / 2 * size).clamp(min=_floor(tol) / 2)
    tol = max(tol, COARSE)
    return asked.minimum((RELATIVE * tol * size).clamp(min=LEAST, max=ABSOLUTE * tol))


def _floor(tol: float) -> float:
    """Absolute error that always will do: lambda2 of a chain of rank one is zero, and no relative error fits it."""
    return min(ABSOLUTE_FLOOR, tol / 100)


def _modulus(alpha: float, found: _Eigenvalues) -> Tensor:
    return alpha * found.values[:, 0].abs().clamp(max=1)


def _shaped(values: Tensor, operator: Operator) -> Tensor:
    dtype = widest_dtype(operator.device) if values.is_floating_point() else values.dtype
    return values.to(operator.device, dtype).view(operator.batch_shape)
