"""GMRES for rows: d (I - alpha M) = b for a batch of maps M, several alphas from one Krylov space.

M and alpha M have the same Krylov space, so the bounces are taken once for all alphas (Frommer and Glässner, SIAM J.
Sci. Comput. 19, 1998, use it for shifted systems). Nothing is asked of M but to be applied to rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attention_chains.chain.basis import Basis
from attention_chains.chain.operators import Operator, single, widest_dtype

LONGEST = 64  # vectors of a Krylov space: beyond, orthogonalising costs more than the bounces
CYCLES = 100  # Krylov spaces, one after the other
GAIN = 0.97  # a Krylov space that leaves more of the residual than this gains nothing
LAP = {"cpu": 5, "cuda": 6}  # steps between two looks at the residual, each of which waits for the device
LONGEST_WAIT = 8  # steps between two looks at a chain that is solved alone
DEAR, EAGER = 2048, 0.5  # tokens from which a step costs a CPU more than a look, and what of a wait it then waits
ALONE = 400  # from so many tokens on, a CPU's cache holds one matrix at most: chain after chain is faster than a batch

Map = Callable[[Tensor], Tensor]


def solve(bounce: Map, rhs: Tensor, goal: Tensor, alphas: Tensor, avoid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return d with || d (I - alpha M) - b ||_1 <= goal, or as far as one Krylov space goes.

    Parameters
    ----------
    bounce : callable
        v -> v M for rows (B, 1, n) of the flattened batch, in the rows' own type.
    rhs : Tensor
        b, (*batch, n); its type is what everything but the small problems is computed in.
    goal : Tensor
        (alphas, *batch): the L1 residual to stop at, as the recurrence gives it, not as a bounce would.
    alphas : Tensor
        Fits (alphas, *batch), float64 where the device has it.
    avoid : Tensor, optional
        A unit row (n,) that d is kept orthogonal to: round-off along it would be blown up.

    Returns
    -------
    d : Tensor
        (alphas, *batch, n).
    steps : Tensor
        Bounces until the goal was met, (alphas, *batch), int64.
    """
    space = _KrylovSpace(rhs, alphas.expand(goal.shape), avoid)
    limits = goal.reshape(len(goal), -1)
    steps = torch.zeros(limits.shape, dtype=torch.long, device=goal.device)
    met = (space.norm == 0).mT.expand_as(steps)
    wait, before = LAP.get(rhs.device.type, LAP["cuda"]), space.norm1()
    while space.size < LONGEST and not met.all():
        for _ in range(wait):
            space.extend(bounce)
        steps = torch.where(met, steps, space.size)  # a chain that has met its goal keeps its solution
        left = space.residual()
        met = met | (left <= limits)
        if rhs.device.type == "cpu" and rhs.shape[-1] >= ALONE:
            wait = _due(before, left, limits, space.size, EAGER if rhs.shape[-1] >= DEAR else 1)
    return space.solution(steps), steps.view(goal.shape)


def flat(bounce: Map, shape: torch.Size) -> Map:
    """Make of a map of rows of a shape (*batch, n) one of rows (B, 1, n)."""
    return lambda rows: bounce(rows.view(shape)).reshape(-1, 1, shape[-1])


def _due(before: Tensor, left: Tensor, goal: Tensor, taken: int, share: float) -> int:
    """Return a share, 1 to LONGEST_WAIT, of the steps after which residuals meet their goals if they fall as before.

    Only for a chain that is solved alone: in a batch, one chain's steps must not depend on another's. All of its
    alphas take the steps of the slowest.
    """
    began = before.expand_as(left).flatten().tolist()
    waits = [1.0]
    for first, now, wanted in zip(began, left.flatten().tolist(), goal.flatten().tolist(), strict=True):
        if now > wanted:
            waits.append(share * math.log(wanted / now) / (math.log(min(now / first, 0.999)) / taken))
    return math.ceil(min(max(waits), LONGEST_WAIT))


class _KrylovSpace:
    """Orthonormal rows V spanning b, b M, b M^2, ..., and H with V[:size] M = H^T V (Arnoldi).

    The batch is flat inside, (B, ...), with alphas in front, (S, B, ...).
    """

    def __init__(self, rhs: Tensor, alphas: Tensor, avoid: Tensor | None):
        self.shape, self.size = rhs.shape, 0
        self.small = torch.device("cpu") if rhs.device.type == "mps" else rhs.device
        self.alphas = alphas.reshape(len(alphas), -1, 1, 1).to(self.small, torch.float64)
        self.held = 0 if avoid is None else 1  # rows in front of V that are only orthogonalised against
        self.least = torch.finfo(rhs.dtype).eps
        rows, most = without(rhs, avoid).reshape(-1, rhs.shape[-1]), LONGEST + max(*LAP.values(), LONGEST_WAIT)
        # Its images are H^T: row j is v_j M in terms of V.
        self.basis = Basis(len(rows), rows.shape[-1], self.held, 1, most, rows.dtype, rows.device)
        if avoid is not None:
            self.basis.rows[:, 0] = avoid
        self.norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # (B, 1)
        torch.div(rows, self.norm.clamp(min=torch.finfo(rows.dtype).tiny), out=self.basis.rows[:, self.held])

    def norm1(self) -> Tensor:
        """L1 norm of b, (1, B)."""
        return (self.basis.rows[:, self.held].abs().sum(-1) * self.norm[:, 0]).unsqueeze(0)

    def extend(self, bounce: Map) -> None:
        """Bounce the last vector and put what is new in it behind."""
        last = self.held + self.size
        row, length, new = self.basis.split(bounce(self.basis.rows.narrow(1, last, 1)), last + 1)
        # Below round-off the space is closed under M; what follows is no more than small, and the solution is exact.
        torch.div(row, length.clamp_(min=self.least), out=new)
        self.size += 1

    def residual(self) -> Tensor:
        """L1 norm of b - d (I - alpha M) for the best d in the space, (S, B), without solving for d.

        The residual is b's part along the row g that the small system (I - alpha H) cannot reach.
        """
        system = self._system()  # (S, B, size + 1, size), one row more than triangular
        g = torch.linalg.solve_triangular(system[..., 1:, :].mT, system[..., :1, :].mT, upper=False)
        g = torch.nn.functional.pad(-g.squeeze(-1), (1, 0), value=1)  # (S, B, size + 1)
        g = g / g.square().sum(-1, keepdim=True)
        return self._combined(g).abs().sum(-1)

    def solution(self, steps: Tensor) -> Tensor:
        """Return the best d after as many steps, (S, *batch, n); `steps` (S, B) may differ from chain to chain."""
        if self.size == 0:
            return self.basis.rows.new_zeros(*steps.shape[:1], *self.shape)
        q, r = torch.linalg.qr(self._system())
        reached = torch.arange(self.size, device=self.small) < steps.to(self.small).unsqueeze(-1)
        first = (q[..., 0, :] * reached).unsqueeze(-1)  # Q^T e_1; R is triangular, so the rest stays zero
        y = torch.linalg.solve_triangular(r, first, upper=True).squeeze(-1)
        return self._combined(y).reshape(-1, *self.shape)

    def _combined(self, weights: Tensor) -> Tensor:
        """Return |b| times the sums (S, B, n) of the first vectors with weights (S, B, count)."""
        vectors = self.basis.rows[:, self.held : self.held + weights.shape[-1]]
        weights = weights.to(vectors.device, vectors.dtype) * self.norm
        return torch.bmm(weights.transpose(0, 1), vectors).transpose(0, 1)

    def _system(self) -> Tensor:
        """I - alpha H, (S, B, size + 1, size)."""
        h = self.basis.images[:, : self.size, self.held : self.held + self.size + 1].mT.to(self.small, torch.float64)
        return torch.eye(self.size + 1, self.size, dtype=torch.float64, device=self.small) - self.alphas * h


def refined(bounce: Map, rhs: Tensor, goal: Tensor, fast: torch.dtype, avoid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Solve d (I - M) = b in the type `fast`, and the correction again, until the residual, in b's type, meets `goal`.

    Here `bounce` maps rows (*batch, n) like b.

    Returns
    -------
    d, residual : Tensor
        As b, (*batch, n) both; the goal, (*batch,), is missed where the type or the Krylov space gains nothing more.
    """
    solution, residual = torch.zeros_like(rhs), without(rhs, avoid)
    one = torch.ones(1, *(1,) * goal.ndim, dtype=widest_dtype(rhs.device), device=rhs.device)
    for dtype in dict.fromkeys((fast, rhs.dtype)):
        for _ in range(CYCLES):
            unmet = residual.abs().sum(-1) > goal
            if not unmet.any():
                return solution, residual
            step, _ = solve(
                flat(bounce, rhs.shape), residual.to(dtype), (goal / 2).where(unmet, torch.inf).unsqueeze(0), one, avoid
            )
            tried = solution + step[0]
            left = without(rhs - tried + bounce(tried), avoid)
            better = unmet & (left.abs().sum(-1) < GAIN * residual.abs().sum(-1))
            if not better.any():
                break
            solution = torch.where(better.unsqueeze(-1), tried, solution)
            residual = torch.where(better.unsqueeze(-1), left, residual)
    return solution, residual


def without(rows: Tensor, avoid: Tensor | None) -> Tensor:
    """Take the part along the unit row `avoid` out of rows (..., n)."""
    if avoid is None:
        return rows
    avoid = avoid.to(rows.dtype)
    return rows - (rows @ avoid).unsqueeze(-1) * avoid


def constant(operator: Operator) -> Tensor:
    """Return the unit row along all ones, (n,): distributions differ by rows without it."""
    dtype = widest_dtype(operator.device)
    return torch.full((operator.n,), operator.n**-0.5, dtype=dtype, device=operator.device)


def parts(operator: Operator) -> list[Operator]:
    """Cut a batch into the parts to solve one after the other: single chains, or all at once.

    A batch of one is a single chain too, so that it gives the same bits.
    """
    count = operator.batch_shape.numel()
    together = operator.device.type != "cpu" or operator.n < ALONE
    if not operator.batch_shape or count == 0 or (together and count > 1):
        return [operator]
    return [single(operator, index) for index in range(count)]
