"""TokenRank: the stationary vector of a chain, with a certified error (paper, sections 3.1 and 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from attention_chains.chain import adjoint, certificate, gmres, power
from attention_chains.chain.derived import Teleported
from attention_chains.chain.doubling import doubling
from attention_chains.chain.errors import ChainError
from attention_chains.chain.krylov_rank import Ranked, TeleportFamily
from attention_chains.chain.operators import Operator, normalised, single
from attention_chains.chain.power import l1
from attention_chains.chain.precision import full_precision, widest_dtype
from attention_chains.chain.recording import unrecorded
from attention_chains.chain.states import uniform

FIELDS = tuple(each.name for each in fields(Ranked))
DOUBLED = 32  # tokens up to which a chain without a contraction is doubled at once


@dataclass(frozen=True)
class TokenRankInfo:
    """How a TokenRank was found; every field has the chain's batch shape.

    Attributes
    ----------
    iterations : Tensor
        Bounces until the tolerance was met: Krylov or power steps, none after LU; or doublings, where it was doubled.
        A Krylov step bounces one state, or eight at once where a large chain is matrix-free.
    residual : Tensor
        ``||x - xP||_1`` of the vector, or a little more, in float64.
    bound : Tensor
        Certified: the L1 error is at most this. Two, the largest distance there is, means that nothing is certified.
    converged : Tensor
        Whether the bound met the tolerance or, for chains that have no bound, doubling changed nothing more. With
        ``stop="paper"`` or ``"official"``: whether that rule was met.
    """

    iterations: Tensor
    residual: Tensor
    bound: Tensor
    converged: Tensor


INFO = tuple(each.name for each in fields(TokenRankInfo))


def tokenrank(
    operator: Operator, tol: float, method: str = "krylov", stop: str = "bound"
) -> tuple[Tensor, TokenRankInfo]:
    """Return the stationary vector (*batch_shape, n), and how it was found; see `AttentionChain.tokenrank`."""
    inner = _before_rounding(operator, tol) if stop == "bound" else tol
    with unrecorded(), full_precision(operator.device):
        reached = found(operator, inner) if method == "krylov" else _power(operator, inner, stop)
        rank, info = _rounded(operator, reached, tol, stop)
    return adjoint.attach(operator, rank.clone()), TokenRankInfo(*(getattr(info, name).clone() for name in INFO))


def found(operator: Operator, tol: float) -> Ranked:
    """Return the stationary vector in the widest type, (*batch_shape, n), its L1 error certified to `tol` if can be."""
    with torch.no_grad(), full_precision(operator.device):
        if isinstance(operator, Teleported):
            return _krylov(operator.base, [operator.alpha], operator.target, tol)[0]
        return _krylov(operator, [1.0], uniform(operator), tol)[0]


def tokenranks(operator: Operator, alphas: Sequence[float], target: Tensor, tol: float) -> tuple[Tensor, TokenRankInfo]:
    """Return the stationary vectors (alphas, *batch_shape, n) of an operator teleported by each alpha."""
    with unrecorded(), full_precision(operator.device):
        reached = _krylov(operator, alphas, target, _before_rounding(operator, tol))
        rounded = [_rounded(operator, one, tol, "bound") for one in reached]
    ranks = [
        adjoint.attach(_teleported(operator, alpha, target), rank.clone())
        for alpha, (rank, _) in zip(alphas, rounded, strict=True)
    ]
    infos = (torch.stack([getattr(info, name) for _, info in rounded]) for name in INFO)
    return torch.stack(ranks), TokenRankInfo(*infos)


def _teleported(base: Operator, alpha: float, target: Tensor) -> Operator:
    return base if alpha == 1 else Teleported(base, alpha, target)


def _before_rounding(operator: Operator, tol: float) -> float:
    """What of the tolerance is left when the result is rounded to the chain's own type."""
    rounding = torch.finfo(operator.dtype).eps / 2
    return tol - rounding if tol > rounding else tol


def _rounded(operator: Operator, reached: Ranked, tol: float, stop: str) -> tuple[Tensor, TokenRankInfo]:
    bound = (reached.bound + torch.finfo(operator.dtype).eps / 2).clamp(max=2)
    converged = reached.settled | (bound <= tol) if stop == "bound" else reached.settled
    rank = normalised(reached.rank).to(operator.dtype)
    return rank, TokenRankInfo(reached.iterations, reached.residual, bound, converged)


def _power(operator: Operator, tol: float, stop: str) -> Ranked:
    """Take plain power steps from uniform until a rule says stop."""
    dtype = widest_dtype(operator.device)
    contraction = certificate.contraction(operator)
    amplification = certificate.by_contraction(contraction)
    if stop == "bound":
        if (steps := power.steps_needed(contraction, tol)) > power.LONGEST:
            needed = f"may need {steps:,} steps, more than {power.LONGEST:,}," if steps < math.inf else "needs teleport"
            raise ChainError(f'the power method {needed} to certify {tol:.1g} here: teleport more, or use "krylov"')
        if not (certificate.rounding(operator) * amplification < tol).all():
            raise ChainError(f"round-off alone keeps the power method from certifying {tol:.1g} here: ask for less")
        state, _, iterations = power.certified(operator, tol, amplification, uniform(operator, dtype))
        met = torch.zeros_like(iterations, dtype=torch.bool)
    else:
        state, met, iterations = (power.paper if stop == "paper" else power.official)(operator, tol)
    residual = l1(operator.apply(normalised(state.to(dtype))) - normalised(state.to(dtype)))
    return Ranked(
        state.to(dtype), iterations, residual, (residual + certificate.rounding(operator)) * amplification, met
    )


def _krylov(base: Operator, alphas: Sequence[float], target: Tensor, tol: float) -> list[Ranked]:
    """Find the rank for each alpha: from one Krylov space where the contractions certify, else one by one."""
    shrinks = certificate.contraction(base)
    within = tol / 2 / certificate.rounding(base)
    proven = [bool((certificate.by_contraction(alpha * shrinks) <= within).all()) for alpha in alphas]
    together = iter(_contracting(base, [alpha for alpha, yes in zip(alphas, proven, strict=True) if yes], target, tol))
    return [
        next(together) if yes else _unproven(_teleported(base, alpha, target), tol)
        for alpha, yes in zip(alphas, proven, strict=True)
    ]


def _contracting(base: Operator, alphas: Sequence[float], target: Tensor, tol: float) -> list[Ranked]:
    """Rank chains whose contraction alone certifies the result."""
    if not alphas:
        return []
    ranked = []
    for part, landing in _parts(base, target):
        family = TeleportFamily.of(part, alphas, landing)
        amplification = certificate.by_contraction(family.contraction)
        ranked.append(family.refined(family.approached(tol / amplification), amplification, tol))
    merged = _merged(ranked, base)
    chains = [_teleported(base, alpha, target) for alpha in alphas]
    return [_completed(chain, _at(merged, index), tol) for index, chain in enumerate(chains)]


def _unproven(operator: Operator, tol: float) -> Ranked:
    """Rank chains that no contraction certifies, by their hitting times; double those that have none."""
    if operator.n <= DOUBLED and not operator.matrix_free:
        return _doubled(operator, tol)
    ranked = []
    for part, landing in _parts(operator, uniform(operator)):
        family = TeleportFamily.of(part, [1.0], landing)
        iterate = family.approached(
            torch.full_like(family.contraction, tol / 1000)
        )  # hitting times are about n, or more
        amplification = certificate.by_hitting(part, iterate.state[0].argmax(-1))
        amplification = torch.minimum(amplification, certificate.by_contraction(family.contraction))
        ranked.append(family.refined(iterate, amplification, tol))
    return _completed(operator, _at(_merged(ranked, operator), 0), tol)


def _parts(operator: Operator, target: Tensor) -> list[tuple[Operator, Tensor]]:
    """Cut a batch into the parts that are solved one after the other, each with its targets (*batch, n), float64."""
    parts = gmres.parts(operator)
    wide = normalised(target.to(widest_dtype(operator.device)))
    rows = wide.expand(*operator.batch_shape, operator.n).reshape(len(parts), *parts[0].batch_shape, operator.n)
    return list(zip(parts, rows, strict=True))


def _merged(ranked: list[Ranked], operator: Operator) -> Ranked:
    """Put the parts of a batch together again: (alphas, *batch_shape)."""
    if len(ranked) == 1 and ranked[0].bound.shape[1:] == operator.batch_shape:
        return ranked[0]
    stacked = {name: torch.stack([getattr(one, name) for one in ranked], 1) for name in FIELDS}
    return Ranked(**{name: value.unflatten(1, operator.batch_shape) for name, value in stacked.items()})


def _at(several: Ranked, index: int) -> Ranked:
    """Return what was found for one alpha."""
    return Ranked(**{name: getattr(several, name)[index] for name in FIELDS})


def _doubled(operator: Operator, tol: float) -> Ranked:
    state, doublings, bound, settled = doubling(operator, tol)
    return Ranked(state, doublings, l1(operator.apply(state) - state), bound, settled)


def _completed(operator: Operator, reached: Ranked, tol: float) -> Ranked:
    """Go on where the bound missed the tolerance: by power steps if they can meet it, by doubling if dense."""
    unmet = (reached.bound > tol) & (operator.n > 1)
    for index in unmet.flatten().nonzero().flatten().tolist():
        better = _last_resort(single(operator, index), reached.rank.reshape(-1, operator.n)[index], tol)
        if better is not None and (bool(better.settled) or better.bound < reached.bound.flatten()[index]):
            _replace(reached, index, better)
    return reached


def _last_resort(operator: Operator, state: Tensor, tol: float) -> Ranked | None:
    contraction = certificate.contraction(operator)
    amplification = certificate.by_contraction(contraction)
    reachable = bool(certificate.rounding(operator) * amplification < tol)
    if reachable and power.steps_needed(contraction, tol) <= power.LONGEST:
        state, bound, steps = power.certified(operator, tol, amplification, state)
        return Ranked(state, steps, bound / amplification, bound, torch.zeros_like(steps, dtype=torch.bool))
    return None if operator.matrix_free else _doubled(operator, tol)


def _replace(reached: Ranked, index: int, one: Ranked) -> None:
    """Replace what was found for one chain of the batch; the steps that led there count too."""
    one.iterations = one.iterations + reached.iterations.flatten()[index]
    for name in FIELDS:
        old, value = getattr(reached, name), getattr(one, name)
        flat = old.reshape(-1, *value.shape).clone()
        flat[index] = value
        setattr(reached, name, flat.view(old.shape))
