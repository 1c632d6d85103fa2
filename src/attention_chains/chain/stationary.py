"""TokenRank: the stationary vector of a chain, with a certified error (paper, sections 3.1 and 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain import adjoint, certificate, gmres, power
from attention_chains.chain.doubling import doubling
from attention_chains.chain.errors import ChainError
from attention_chains.chain.krylov_rank import Found, Surfers
from attention_chains.chain.operators import Operator, Teleported, normalised, single, widest_dtype
from attention_chains.chain.power import l1
from attention_chains.chain.states import uniform

DOUBLED = 32  # tokens up to which a chain without a contraction is doubled at once


@dataclass(frozen=True)
class TokenRankInfo:
    """How a TokenRank was found; every field has the chain's batch shape.

    Attributes
    ----------
    iterations : Tensor
        Bounces until the tolerance was met: Krylov or power steps, none after LU; or doublings, where it was doubled.
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


def tokenrank(
    operator: Operator, tol: float, method: str = "krylov", stop: str = "bound"
) -> tuple[Tensor, TokenRankInfo]:
    """Return the stationary vector (*batch_shape, n), and how it was found; see `AttentionChain.tokenrank`."""
    inner = _before_rounding(operator, tol) if stop == "bound" else tol
    with torch.no_grad(), torch.autocast(operator.device.type, enabled=False):
        reached = found(operator, inner) if method == "krylov" else _power(operator, inner, stop)
        rank, info = _rounded(operator, reached, tol, stop)
    return adjoint.attach(operator, rank), info


def found(operator: Operator, tol: float) -> Found:
    """Return the stationary vector in the widest type, (*batch_shape, n), its L1 error certified to `tol` if can be."""
    with torch.no_grad(), torch.autocast(operator.device.type, enabled=False):
        if isinstance(operator, Teleported):
            return _krylov(operator.base, [operator.alpha], operator.target, tol)[0]
        return _krylov(operator, [1.0], uniform(operator), tol)[0]


def tokenranks(operator: Operator, alphas: Sequence[float], target: Tensor, tol: float) -> tuple[Tensor, TokenRankInfo]:
    """Return the stationary vectors (alphas, *batch_shape, n) of an operator teleported by each alpha."""
    with torch.no_grad(), torch.autocast(operator.device.type, enabled=False):
        reached = _krylov(operator, alphas, target, _before_rounding(operator, tol))
        rounded = [_rounded(operator, one, tol, "bound") for one in reached]
    ranks = [
        adjoint.attach(_teleported(operator, alpha, target), rank)
        for alpha, (rank, _) in zip(alphas, rounded, strict=True)
    ]
    infos = zip(*(vars(info).values() for _, info in rounded), strict=True)
    return torch.stack(ranks), TokenRankInfo(*(torch.stack(field) for field in infos))


def _teleported(base: Operator, alpha: float, target: Tensor) -> Operator:
    return base if alpha == 1 else Teleported(base, alpha, target)


def _before_rounding(operator: Operator, tol: float) -> float:
    """What of the tolerance is left when the result is rounded to the chain's own type."""
    rounding = torch.finfo(operator.dtype).eps / 2
    return tol - rounding if tol > rounding else tol


def _rounded(operator: Operator, reached: Found, tol: float, stop: str) -> tuple[Tensor, TokenRankInfo]:
    bound = (reached.bound + torch.finfo(operator.dtype).eps / 2).clamp(max=2)
    converged = reached.settled | (bound <= tol) if stop == "bound" else reached.settled
    rank = normalised(reached.rank).to(operator.dtype)
    return rank, TokenRankInfo(reached.iterations, reached.residual, bound, converged)


def _power(operator: Operator, tol: float, stop: str) -> Found:
    """Take plain power steps from uniform until a rule says stop."""
    dtype = widest_dtype(operator.device)
    contraction = certificate.contraction(operator)
    amplification = certificate.by_contraction(contraction)
    if stop == "bound":
        if (steps := power.steps_needed(contraction, tol)) > power.LONGEST:
            needed = f"may need {steps:,} steps, more than {power.LONGEST:,}," if steps < math.inf else "needs teleport"
            raise ChainError(f'the power method {needed} to certify {tol:.1g} here: teleport more, or use "krylov"')
        state, _, iterations = power.certified(operator, tol, amplification, uniform(operator, dtype))
        met = torch.zeros_like(iterations, dtype=torch.bool)
    else:
        state, met, iterations = (power.paper if stop == "paper" else power.official)(operator, tol)
    residual = l1(operator.apply(normalised(state.to(dtype))) - normalised(state.to(dtype)))
    return Found(
        state.to(dtype), iterations, residual, (residual + certificate.rounding(operator)) * amplification, met
    )


def _krylov(base: Operator, alphas: Sequence[float], target: Tensor, tol: float) -> list[Found]:
    """Find the rank for each alpha: from one Krylov space where the contractions certify, else one by one."""
    shrinks = certificate.contraction(base)
    within = tol / 2 / certificate.rounding(base)
    proven = [bool((certificate.by_contraction(alpha * shrinks) <= within).all()) for alpha in alphas]
    together = iter(_contracting(base, [alpha for alpha, yes in zip(alphas, proven, strict=True) if yes], target, tol))
    return [
        next(together) if yes else _unproven(_teleported(base, alpha, target), tol)
        for alpha, yes in zip(alphas, proven, strict=True)
    ]


def _contracting(base: Operator, alphas: Sequence[float], target: Tensor, tol: float) -> list[Found]:
    """Rank chains whose contraction alone certifies the result."""
    if not alphas:
        return []
    walks = []
    for part, landing in _parts(base, target):
        family = Surfers.of(part, alphas, landing)
        amplification = certificate.by_contraction(family.contraction)
        walks.append(family.refined(family.approached(tol / amplification), amplification, tol))
    merged = _merged(walks, base)
    chains = [_teleported(base, alpha, target) for alpha in alphas]
    return [_completed(chain, _at(merged, index), tol) for index, chain in enumerate(chains)]


def _unproven(operator: Operator, tol: float) -> Found:
    """Rank chains that no contraction certifies, by their hitting times; double those that have none."""
    if operator.n <= DOUBLED and not operator.matrix_free:
        return _doubled(operator, tol)
    walks = []
    for part, landing in _parts(operator, uniform(operator)):
        family = Surfers.of(part, [1.0], landing)
        walk = family.approached(torch.full_like(family.contraction, tol / 1000))  # hitting times are about n, or more
        amplification = certificate.by_hitting(part, walk.state[0].argmax(-1))
        amplification = torch.minimum(amplification, certificate.by_contraction(family.contraction))
        walks.append(family.refined(walk, amplification, tol))
    return _completed(operator, _at(_merged(walks, operator), 0), tol)


def _parts(operator: Operator, target: Tensor) -> list[tuple[Operator, Tensor]]:
    """Cut a batch into the parts that are solved one after the other, each with its targets (*batch, n), float64."""
    parts = gmres.apart(operator)
    wide = normalised(target.to(widest_dtype(operator.device)))
    rows = wide.expand(*operator.batch_shape, operator.n).reshape(len(parts), *parts[0].batch_shape, operator.n)
    return list(zip(parts, rows, strict=True))


def _merged(walks: list[Found], operator: Operator) -> Found:
    """Put the parts of a batch together again: (alphas, *batch_shape)."""
    if len(walks) == 1:
        return walks[0]
    fields = zip(*(vars(walk).values() for walk in walks), strict=True)
    return Found(*(torch.stack(field, 1).unflatten(1, operator.batch_shape) for field in fields))


def _at(several: Found, index: int) -> Found:
    """Return what was found for one alpha."""
    return Found(*(value[index] for value in vars(several).values()))


def _doubled(operator: Operator, tol: float) -> Found:
    state, doublings, bound, settled = doubling(operator, tol)
    return Found(state, doublings, l1(operator.apply(state) - state), bound, settled)


def _completed(operator: Operator, reached: Found, tol: float) -> Found:
    """Go on where the bound missed the tolerance: by power steps if they can meet it, by doubling if dense."""
    unmet = (reached.bound > tol) & (operator.n > 1)
    for index in unmet.flatten().nonzero().flatten().tolist():
        better = _last_resort(single(operator, index), reached.rank.reshape(-1, operator.n)[index], tol)
        if better is not None and (bool(better.settled) or better.bound < reached.bound.flatten()[index]):
            _put(reached, index, better)
    return reached


def _last_resort(operator: Operator, state: Tensor, tol: float) -> Found | None:
    contraction = certificate.contraction(operator)
    amplification = certificate.by_contraction(contraction)
    reachable = bool(certificate.rounding(operator) * amplification < tol)
    if reachable and power.steps_needed(contraction, tol) <= power.LONGEST:
        state, bound, steps = power.certified(operator, tol, amplification, state)
        return Found(state, steps, bound / amplification, bound, torch.zeros_like(steps, dtype=torch.bool))
    return None if operator.matrix_free else _doubled(operator, tol)


def _put(reached: Found, index: int, one: Found) -> None:
    """Replace what was found for one chain of the batch; the steps that led there count too."""
    one.iterations = one.iterations + reached.iterations.flatten()[index]
    for field, value in vars(one).items():
        old = getattr(reached, field)
        flat = old.reshape(-1, *value.shape).clone()
        flat[index] = value
        setattr(reached, field, flat.view(old.shape))
