"""How many bounces it takes to forget the start (Levin, Peres and Wilmer, Markov Chains and Mixing Times, ch. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.chain import stationary
from attention_chains.chain.doubling import SETTLED
from attention_chains.chain.operators import Operator, normalised, single
from attention_chains.chain.power import l1, looks
from attention_chains.chain.precision import widest_dtype
from attention_chains.chain.products import matmul

NEVER = torch.iinfo(torch.int64).max  # more than any number of bounces, so that it sorts and compares as it should
MAX_SQUARINGS = 50
EXACT = 1e-12  # L1 error of the stationary vectors that states are compared with


@torch.no_grad()
def mixing_time(operator: Operator, eps: float) -> Tensor:
    """Return the smallest t at which every start is within eps of stationary, (*batch_shape,); one chain at a time."""
    rank = stationary.found(operator, EXACT).rank.reshape(-1, operator.n)
    times = [_mixing_time(single(operator, index), row, eps) for index, row in enumerate(rank)]
    return torch.tensor(times, dtype=torch.long, device=operator.device).view(operator.batch_shape)


def _mixing_time(operator: Operator, rank: Tensor, eps: float) -> int:
    """Square until mixed, then go back by halves: the distance never grows from one bounce to the next."""
    if (1 - rank.amin()) <= eps:
        return 0
    powers = [operator.dense(rank.dtype)]  # P, P^2, P^4, ...
    while _distance(powers[-1], rank) > eps:
        powers.append(normalised(matmul(powers[-1], powers[-1])))
        settled = ((powers[-1] - powers[-2]).abs() <= SETTLED * powers[-1]).all()
        if len(powers) > MAX_SQUARINGS or (settled and _distance(powers[-1], rank) > eps):
            return NEVER
    return 1 if len(powers) == 1 else _last_unmixed(powers[:-1], rank, eps) + 1


def _last_unmixed(powers: list[Tensor], rank: Tensor, eps: float) -> int:
    """Return the largest t with P^t unmixed, given P^(2^k) up to the last that is."""
    unmixed, time = powers[-1], 2 ** (len(powers) - 1)
    for k in reversed(range(len(powers) - 1)):
        further = normalised(matmul(unmixed, powers[k]))
        if _distance(further, rank) > eps:
            unmixed, time = further, time + 2**k
    return time


def _distance(power: Tensor, rank: Tensor) -> Tensor:
    """Total variation distance of the worst row, in [0, 1]."""
    return l1(power - rank).amax() / 2


@torch.no_grad()
def first_bounces_until(operator: Operator, tol: float, state: Tensor, limit: int) -> Tensor:
    """Return the smallest t up to `limit` at which the state is within tol of stationary, in L1; else NEVER: (...,)."""
    rank = stationary.found(operator, max(EXACT, tol / 1000)).rank
    state = normalised(state.to(widest_dtype(operator.device)))
    first = torch.full(state.shape[:-1], NEVER, dtype=torch.long, device=operator.device)
    for time in range(limit + 1):
        first = torch.where((l1(state - rank) <= tol) & (first == NEVER), time, first)
        if looks(time, operator) and not (first == NEVER).any():
            break
        state = operator.apply(state)
    return first
