"""TokenRank: the stationary vector of a chain, with a certified error (paper, sections 3.1 and 4.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain.operators import Lazy, Operator, matmul, normalised, widest_dtype
from attention_chains.chain.states import uniform

MAX_POWER_STEPS = 20_000  # enough for alpha = .999; a slower chain is doubled instead
MAX_DOUBLINGS = 1100  # the smallest leak that float64 can hold, 2^-1074, has grown to one by then
SETTLED = 1e-10  # relative change of an entry that is round-off; a leak's entries double


@dataclass(frozen=True)
class TokenRankInfo:
    """How a TokenRank was found; every field has the chain's batch shape.

    Attributes
    ----------
    iterations : Tensor
        Power steps (teleported chains) or doublings (all others) until the tolerance was met, int64.
    residual : Tensor
        ``||x - xP||_1`` of the vector in float64.
    bound : Tensor
        Certified: the L1 error is at most this. Two, the largest distance there is, means that nothing is certified.
    converged : Tensor
        Whether the bound met the tolerance or, without teleport, doubling the bounces changed nothing more.
    """

    iterations: Tensor
    residual: Tensor
    bound: Tensor
    converged: Tensor


def tokenrank(operator: Operator, tol: float) -> tuple[Tensor, TokenRankInfo]:
    """Return the stationary vector (*batch_shape, n), found in float64, and how it was found."""
    solve = power_steps if _steps_needed(operator.contraction, tol) <= MAX_POWER_STEPS else doubling
    rounding = torch.finfo(operator.dtype).eps / 2  # of the result, to the chain's own type, in L1
    rank, iterations, bound, settled = solve(operator, tol - rounding if tol > rounding else tol)
    bound = bound + rounding
    residual = _l1(operator.apply(rank) - rank)
    rank = normalised(rank).to(operator.dtype)
    return rank, TokenRankInfo(iterations, residual, bound.clamp(max=2), settled | (bound <= tol))


def power_steps(operator: Operator, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounce from uniform until the L1 error, at most residual / (1 - contraction), is below `tol` everywhere.

    Returns
    -------
    state, iterations, bound, settled : Tensor
        As in `TokenRankInfo`; power steps are only ever settled by their bound, so `settled` is False.
    """
    state = uniform(operator, widest_dtype(operator.device))
    iterations = torch.zeros(operator.batch_shape, dtype=torch.long, device=operator.device)
    rounding = operator.n * torch.finfo(widest_dtype(operator.device)).eps  # of one bounce, in L1
    for _ in range(_steps_needed(operator.contraction, tol) + 1):
        bounced = operator.apply(state)
        bound = (_l1(bounced - state) + rounding) / (1 - operator.contraction)
        unmet = bound > tol
        if not unmet.any():
            break
        state, iterations = bounced, iterations + unmet
    return state, iterations, bound, torch.zeros_like(unmet)


def doubling(operator: Operator, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Square the lazy chain until its rows agree: the Cesaro limit from uniform, whatever the chain.

    The lazy chain has the same Cesaro limit and is never periodic, so its powers reach that limit: also for several
    closed classes, transient tokens and permutations. Squaring non-negative matrices cancels nothing, so that leaks
    between nearly closed classes keep their relative accuracy, however small. Every row is within 2 (1 - overlap) of
    the stationary vector, where the overlap is the mass that all rows share.

    Returns
    -------
    state, iterations, bound, settled : Tensor
        As in `TokenRankInfo`.
    """
    power = Lazy(operator, 0.5).dense(widest_dtype(operator.device))
    iterations = torch.zeros(operator.batch_shape, dtype=torch.long, device=operator.device)
    rounding = operator.n * torch.finfo(widest_dtype(operator.device)).eps  # of one squaring, in L1
    for doublings in range(MAX_DOUBLINGS):
        squared = normalised(matmul(power, power))
        settled = ((squared - power).abs() <= SETTLED * squared).all(-1).all(-1)
        power = squared
        bound = 2 * (1 - power.amin(-2).sum(-1)).clamp(min=0) + (doublings + 1) * rounding
        unmet = (bound > tol) & ~settled
        if not unmet.any():
            break
        iterations = iterations + unmet
    return power.mean(-2), iterations, bound, settled


def _steps_needed(contraction: float, tol: float) -> float:
    """Bounces after which any two distributions, at most 2 apart, are within `tol`."""
    return max(0, math.ceil(math.log(tol / 2) / math.log(contraction))) if contraction < 1 else math.inf


def _l1(values: Tensor) -> Tensor:
    return values.abs().sum(-1)
