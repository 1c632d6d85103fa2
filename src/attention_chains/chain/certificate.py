"""Proofs that a vector is near the stationary one: by how much a residual can understate the error.

For a distribution x with residual r = xP - x, the L1 error is at most `amplification * ||r||_1`. Two arguments give an
amplification. A bounce that shrinks all L1 distances by c < 1: 1 / (1 - c). And, for any chain that reaches some token
j from everywhere, 2 h, with h the longest mean time to hit j: away from j the error e obeys e (I - Q) = -r + const
times the stationary vector, Q = P without j, and (I - Q)^-1 1 are the hitting times (Kemeny and Snell, 1960). Any w
with (I - Q) w >= s > 0 proves that they are at most w / s, however w was found.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention_chains.chain import gmres
from attention_chains.chain.derived import Averaged, Lazy, Outgoing, Product, Teleported, Wrapped
from attention_chains.chain.fused import FusedOperator
from attention_chains.chain.operators import Operator
from attention_chains.chain.precision import widest_dtype

REGULAR = 1e-9  # by how much a contraction must be below one: weights of heads, or rows, sum to one but for round-off
CYCLES = 4  # Krylov spaces to spend on hitting times; where they do not do, classes are all but closed


def rounding(operator: Operator) -> float:
    """Round-off of one bounce of a distribution in the widest type, in L1."""
    return products(operator) * (operator.n + 4) * torch.finfo(widest_dtype(operator.device)).eps


def products(operator: Operator) -> int:
    """Return how many products with a stored or computed matrix one bounce takes, one after the other."""
    if isinstance(operator, Product):
        return products(operator.first) + products(operator.then)
    return products(operator.base) if isinstance(operator, Wrapped) else 1


def coarseness(operator: Operator) -> float:
    """Return how many round-offs of its own type an entry of the operator may be off by, relative to itself."""
    own = operator.coarseness if isinstance(operator, FusedOperator) else 4.0
    return own + sum(coarseness(part) for part in vars(operator).values() if hasattr(part, "apply_transposed"))


def contraction(operator: Operator) -> Tensor:
    """Return a proven factor, in [0, 1], by which a bounce shrinks L1 distances: (*batch_shape,)."""
    return _contraction(operator).expand(operator.batch_shape)


def _contraction(operator: Operator) -> Tensor:
    if isinstance(operator, Teleported):
        return operator.alpha * _contraction(operator.base)
    if isinstance(operator, Lazy):
        return operator.stay + (1 - operator.stay) * _contraction(operator.base)
    if isinstance(operator, Product):
        return _contraction(operator.first) * _contraction(operator.then)
    if isinstance(operator, Averaged):
        return (operator.weights * contraction(operator.base)).sum(operator.dim).clamp(max=1)
    if isinstance(operator, Outgoing) and isinstance(operator.base, Teleported):
        return _outgoing_contraction(operator, operator.base)
    return torch.ones((), dtype=widest_dtype(operator.device), device=operator.device)


def is_regular(operator: Operator, alpha: float = 1) -> bool:
    """Whether a teleported chain is proven to shrink all distances, by more than round-off: it has one limit only."""
    return bool((alpha * contraction(operator) < 1 - REGULAR).all())


def _outgoing_contraction(operator: Outgoing, base: Teleported) -> Tensor:
    """Row j of the columns' chain holds at least (1 - alpha) p_j / c_j everywhere, with c_j the column's sum."""
    shared = (base.target * operator.scale).amin(-1) * operator.n * (1 - base.alpha)
    return (1 - shared).clamp(0, 1)


def by_contraction(contraction: Tensor) -> Tensor:
    """Return the amplification of a contraction: infinite, nothing proven, at one."""
    return 1 / (1 - contraction).clamp(min=0)


def by_hitting(operator: Operator, token: Tensor) -> Tensor:
    """Return the amplification by the hitting times of a token for each chain, (*batch_shape,); infinite if none."""
    dtype = widest_dtype(operator.device)
    here = torch.nn.functional.one_hot(token, operator.n).bool()
    ones = (~here).to(dtype)
    rhs, goal = ones, ones.new_full((1, *operator.batch_shape), 0.5)
    times, slack = torch.zeros_like(ones), ones.new_zeros(operator.batch_shape)

    def away(rows: Tensor) -> Tensor:
        return operator.apply_transposed(rows).masked_fill(here, 0)

    for cycle in range(CYCLES):
        fast = operator.dtype if 2 * cycle < CYCLES else dtype
        more, _ = gmres.solve(gmres.flat(away, rhs.shape), rhs.to(fast), goal, torch.ones_like(goal), None)
        times = times + more[0]
        step = times - away(times)
        slack = step.masked_fill(here, math.inf).amin(-1) - rounding(operator) * times.abs().amax(-1)
        if (slack > 0.1).all():
            break
        rhs = ones - step
    proven = (slack > 0) & times.isfinite().all(-1)
    return torch.where(proven, 2 * times.amax(-1) / slack + 1, math.inf)  # 1: the residual is taken as a step
