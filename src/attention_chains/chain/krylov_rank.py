"""TokenRank by GMRES on the states that sum to zero: one base chain, several teleport rates, one Krylov space.

For x = x (alpha A + (1 - alpha) 1 p^T) write x = p + d: then d (I - alpha A) = alpha (p A - p), and d sums to zero.
The right-hand sides of all alphas are parallel, so their Krylov space is the same. The space is built in the chain's
own type; the residual is then measured in float64 and, if need be, solved away again (iterative refinement).
A correction is so small that a bounce in float32 says well enough, and provably, what it leaves of the residual:
only one bounce in float64, which costs as much as ten others, is needed. A few hundred tokens of a dense chain are
solved by LU in float64 instead, which there costs less than the Krylov space's first steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain import certificate, gmres
from attention_chains.chain.operators import DenseOperator, Operator, bouncing, normalised, single
from attention_chains.chain.power import l1
from attention_chains.chain.precision import widest_dtype

MARGIN = 0.75  # share of a residual's goal that a Krylov space in the chain's own type is to meet: it rounds off
DIRECT = {"cpu": 320}  # tokens of a dense chain up to which LU is faster; not measured on other devices


@dataclass
class Ranked:
    """A rank (..., n) in the widest type, and the fields of its `TokenRankInfo`, (...,), before the last rounding."""

    rank: Tensor
    iterations: Tensor
    residual: Tensor
    bound: Tensor
    settled: Tensor


@dataclass
class Iterate:
    """Where the search is, for each alpha and chain."""

    state: Tensor  # x, (alphas, *batch, n), summing to one
    residual: Tensor  # x P - x, the same
    slack: Tensor  # (alphas, *batch): by how much the residual may be wrong, in L1
    iterations: Tensor  # (alphas, *batch)

    def where(self, better: Tensor, other: Iterate) -> Iterate:
        """Take another's state where it is better; count its iterations everywhere."""
        state = torch.where(better.unsqueeze(-1), other.state, self.state)
        residual = torch.where(better.unsqueeze(-1), other.residual, self.residual)
        return Iterate(state, residual, torch.where(better, other.slack, self.slack), other.iterations)


@dataclass
class TeleportFamily:
    """alpha A + (1 - alpha) 1 p^T for one A and target p and several alphas; alpha = 1 is A itself, and p the start."""

    base: Operator
    alphas: Tensor  # (alphas, 1, ..., 1), one for each batch dimension
    target: Tensor  # (*batch, n)
    contraction: Tensor  # (alphas, *batch)
    constant: Tensor  # (n,)
    coarseness: float  # round-offs that an entry of A may be off by
    together: int  # rows to bounce at a time

    @classmethod
    def of(cls, base: Operator, alphas: Sequence[float], target: Tensor) -> TeleportFamily:
        """Take a target in the widest type."""
        rates = torch.tensor(alphas, dtype=target.dtype, device=target.device)
        rates = rates.view(-1, *(1,) * len(base.batch_shape))
        shrinks = rates * certificate.contraction(base)
        together = gmres.at_once(base, certificate.is_regular(base, max(alphas)))
        return cls(base, rates, target, shrinks, gmres.constant(base), certificate.coarseness(base), together)

    def bounced(self, state: Tensor, iterations: Tensor, allowed: Tensor) -> Iterate:
        """Make a distribution of a state, and bounce it once: in float64, or nearly so if that slack is allowed."""
        state = normalised(state.clamp(min=0))
        rate = self.alphas.unsqueeze(-1)
        image, slack = self._image(state, allowed)
        residual = rate * image + (1 - rate) * self.target - state
        return Iterate(state, residual, torch.full_like(l1(state), slack), iterations)

    def _image(self, state: Tensor, allowed: Tensor) -> tuple[Tensor, float]:
        """Return x A and its round-off in L1: in float64, or by blocks if that is cheaper and the slack is allowed."""
        base, rounding = self.base, certificate.rounding(self.base)
        if isinstance(base, DenseOperator) and not base.batch_shape and base.n >= gmres.ALONE:
            in_blocks = rounding + base.off_in_blocks
            if base.device.type == "cpu" and base.dtype != state.dtype and (in_blocks <= allowed).all():
                return base.apply_in_blocks(state), in_blocks
        return base.apply(state), rounding

    def approached(self, goal: Tensor) -> Iterate:
        """Solve once, from the target on: all alphas from one Krylov space, in the chain's own type; or by LU."""
        if self._is_direct():
            return self.bounced(self._solved(), torch.zeros_like(goal, dtype=torch.long), goal / 4)
        start = self.target.to(self.base.dtype)
        rhs = self.base.apply(start) - start  # (*batch, n)
        limit = torch.maximum(MARGIN * goal, _reach(rhs))
        bounce = bouncing(self.base, self.together, rhs.dtype)
        step, bounces = gmres.solve(bounce, rhs, limit / self.alphas, self.alphas, self.constant, self.together)
        return self.bounced(self.target + self.alphas.unsqueeze(-1) * step, bounces + 2, goal / 4)

    def _is_direct(self) -> bool:
        """Whether the systems are small, stored and, as alpha < 1, regular."""
        small = self.base.n <= DIRECT.get(self.target.device.type, 0)
        return small and not self.base.matrix_free and bool((self.alphas < 1).all())

    def _solved(self) -> Tensor:
        """Solve x (I - alpha A) = (1 - alpha) p by LU in the widest type, one matrix at a time: (alphas, *batch, n)."""
        targets = self.target.reshape(-1, self.base.n)
        states = [self._solved_one(single(self.base, index), row) for index, row in enumerate(targets)]
        return torch.stack(states or [targets], 1).view(len(self.alphas), *self.target.shape)

    def _solved_one(self, chain: Operator, target: Tensor) -> Tensor:
        rates = self.alphas.view(-1, 1, 1)
        system = torch.eye(chain.n, dtype=target.dtype, device=target.device) - rates * chain.dense(target.dtype)
        return torch.linalg.solve(system.mT, (1 - rates) * target.unsqueeze(-1)).squeeze(-1)

    def refined(self, iterate: Iterate, amplification: Tensor, tol: float) -> Ranked:
        """Solve for what is left until the certified bound meets `tol`, in the chain's own type as long as it gains."""
        target = tol / amplification  # for the residual
        ways = (None, *dict.fromkeys((self.base.dtype, widest_dtype(self.base.device))))
        for dtype in ways:  # one bounce first: often it averages away what round-off left
            for _ in range(1 if dtype is None else gmres.CYCLES):
                unmet = (self._left(iterate) > target) & (l1(iterate.residual) > iterate.slack)
                if not unmet.any():
                    return self._found(iterate, amplification)
                iterate, gained = self._improved(iterate, target, unmet, dtype)
                if not gained:
                    break
        return self._found(iterate, amplification)

    def _improved(
        self, iterate: Iterate, target: Tensor, unmet: Tensor, dtype: torch.dtype | None
    ) -> tuple[Iterate, bool]:
        """Go one step where the target is missed, by GMRES in `dtype` or else by bouncing; return whether it gained."""
        before = l1(iterate.residual) + iterate.slack
        step, bounces = (iterate.residual, 1) if dtype is None else self._correction(iterate, target, unmet, dtype)
        tried = self._stepped(iterate, step, iterate.iterations + bounces * unmet, (target / 4).where(unmet, torch.inf))
        better = unmet & (l1(tried.residual) + tried.slack < gmres.GAIN * before)
        return iterate.where(better, tried), bool(better.any())

    def _correction(self, iterate: Iterate, target: Tensor, unmet: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return d with d (I - alpha A) = residual, and the bounces that it took."""
        rhs = iterate.residual.to(dtype)
        goal = torch.maximum(target / 2, _reach(rhs)).where(unmet, torch.inf)  # no steps where nothing is to gain
        goal, rates = goal.unsqueeze(0), self.alphas.unsqueeze(0)  # every alpha's right-hand side is its own
        bounce = gmres.flat(self.base.apply, rhs.shape)
        step, bounces = gmres.solve(bounce, rhs, goal, rates, self.constant, self.together)
        return step[0].to(iterate.state.dtype), bounces[0] + 1

    def _stepped(self, iterate: Iterate, step: Tensor, iterations: Tensor, allowed: Tensor) -> Iterate:
        """Go a step that sums to zero; bounce it in the chain's own type if the slack that this adds is allowed."""
        step = gmres.without(step, self.constant)
        off = (certificate.products(self.base) * self.base.n + self.coarseness) * torch.finfo(self.base.dtype).eps
        slack = iterate.slack + off * l1(step)
        if (slack > allowed).any():
            return self.bounced(iterate.state + step, iterations, allowed)
        moved = self.alphas.unsqueeze(-1) * self.base.apply(step.to(self.base.dtype)).to(step.dtype)
        return Iterate(iterate.state + step, iterate.residual - step + moved, slack, iterations)

    def _left(self, iterate: Iterate) -> Tensor:
        """Residual of x P, at most that of x contracted, and what it may be wrong by."""
        return self.contraction * l1(iterate.residual) + iterate.slack

    def _found(self, iterate: Iterate, amplification: Tensor) -> Ranked:
        """Take the power step that the residual is, and make a distribution of it, which only nears the right one."""
        rank = iterate.state + iterate.residual
        below = -rank.clamp(max=0).sum(-1)
        left = self._left(iterate)
        bound = left * amplification
        return Ranked(
            normalised(rank.clamp(min=0)), iterate.iterations, left + 4 * below, bound, torch.zeros_like(bound).bool()
        )


def _reach(rhs: Tensor) -> Tensor:
    """L1 residual below which a Krylov space in this type only seems to go."""
    return 3 * torch.finfo(rhs.dtype).eps * l1(rhs).to(widest_dtype(rhs.device))
