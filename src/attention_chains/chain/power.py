"""The power method: bounce until a rule says stop (paper, section 3.1; protocol 0.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attention_chains.chain.certificate import rounding
from attention_chains.chain.operators import Operator, normalised
from attention_chains.chain.states import uniform

LONGEST = 20_000  # steps, enough for alpha = .999
OFFICIAL_LONGEST = 200
LAP = {"cpu": 1, "cuda": 16}  # bounces between two looks, each of which waits for the device

Rule = Callable[[Tensor], Tensor]


def certified(operator: Operator, tol: float, amplification: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bounce from `state` until the L1 error, at most amplification * residual, is below `tol`, or for LONGEST steps.

    Each chain stops by itself, so that a batch gives what a loop gives.

    Returns
    -------
    state, bound, iterations : Tensor
        (*batch_shape, n) and (*batch_shape,); the bound is the returned state's.
    """
    iterations = torch.zeros(operator.batch_shape, dtype=torch.long, device=operator.device)
    for step in range(LONGEST):
        bounced = operator.apply(state)
        bound = (l1(bounced - state) + rounding(operator)) * amplification
        unmet = bound > tol
        if looks(step, operator) and not unmet.any():
            break
        state, iterations = torch.where(unmet.unsqueeze(-1), bounced, state), iterations + unmet
    return state, bound, iterations


def paper(operator: Operator, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Stop when the squared L2 norm of the change is below `tol` (paper, section 3.1), in the chain's own type.

    Returns
    -------
    state, met, iterations : Tensor
        (*batch_shape, n) and (*batch_shape,); `met` is False where LONGEST steps did not do.
    """
    return _until(operator, lambda change: change.square().sum(-1) < tol, LONGEST, lambda state: state)


def official(operator: Operator, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Renormalise each step, stop when the L1 change is below `tol`, or after 200 steps (protocol 0.2, variant 2)."""
    return _until(operator, lambda change: l1(change) < tol, OFFICIAL_LONGEST, normalised)


def _until(operator: Operator, stop: Rule, longest: int, after: Rule) -> tuple[Tensor, Tensor, Tensor]:
    state = uniform(operator)
    met = torch.zeros(operator.batch_shape, dtype=torch.bool, device=operator.device)
    iterations = torch.zeros_like(met, dtype=torch.long)
    for step in range(longest):
        bounced = after(operator.apply(state))
        stops = stop(bounced - state)
        state, iterations = torch.where(met.unsqueeze(-1), state, bounced), iterations + ~met
        met = met | stops
        if looks(step, operator) and met.all():
            break
    return state, met, iterations


def looks(step: int, operator: Operator) -> bool:
    """Whether to ask after this step if all chains are done; those that are stay as they are."""
    return step % LAP.get(operator.device.type, LAP["cuda"]) == 0


def steps_needed(contraction: Tensor, tol: float) -> float:
    """Bounces after which any two distributions, at most 2 apart, are within `tol` in every chain."""
    slowest = contraction.amax().item() if contraction.numel() else 0.0
    if slowest >= 1:
        return math.inf
    return max(0, math.ceil(math.log(tol / 2) / math.log(slowest))) if slowest > 0 else 1


def l1(values: Tensor) -> Tensor:
    """Sum the moduli of the last dimension."""
    return values.abs().sum(-1)
