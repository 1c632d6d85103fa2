"""The Cesaro limit of any chain at all, by squaring its matrix: O(n^3), for small and nearly reducible chains."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.chain.derived import Lazy
from attention_chains.chain.operators import Operator, normalised
from attention_chains.chain.precision import widest_dtype
from attention_chains.chain.products import matmul

MAX_DOUBLINGS = 1100  # the smallest leak that float64 can hold, 2^-1074, has grown to one by then
SETTLED = 1e-10  # relative change of an entry that is round-off; a leak's entries double


def doubling(operator: Operator, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Square the lazy chain until its rows agree: the Cesaro limit from uniform, whatever the chain.

    The lazy chain has the same Cesaro limit and is never periodic, so its powers reach that limit: also for several
    closed classes, transient tokens and permutations. Squaring non-negative matrices cancels nothing, so that leaks
    between nearly closed classes keep their relative accuracy, however small. Every row is within 2 (1 - overlap) of
    the stationary vector, where the overlap is the mass that all rows share.

    Returns
    -------
    state, iterations, bound, settled : Tensor
        (*batch_shape, n) and (*batch_shape,): the limit in the widest type, doublings, a certified L1 bound, and
        whether the last doubling changed nothing.
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
