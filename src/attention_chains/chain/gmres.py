"""GMRES for rows: d (I - alpha M) = b for a batch of maps M, several alphas from one Krylov space.

M and alpha M have the same Krylov space, so the bounces are taken once for all alphas (Frommer and Glässner, SIAM J.
Sci. Comput. 19, 1998, use it for shifted systems). Nothing is asked of M but to be applied to rows. Where each
bounce computes the matrix anew, seven random rows beside b's cost a quarter more: the space then grows in more
directions, and chains that mix slowly need about half of the bounces.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attention_chains.chain.basis import Basis, random_rows
from attention_chains.chain.operators import Operator, single
from attention_chains.chain.precision import widest_dtype

LONGEST = 64  # steps of one row: beyond, orthogonalising costs more than the bounces
LONGEST_BLOCKS = 24  # steps of several rows
TOGETHER, LARGE = 8, 512  # rows to bounce at a time where that pays: of matrix-free chains, from so many tokens on
SELDOM = 64  # with every so many rows more, a space is looked at one step less often: QR takes their number cubed
CYCLES = 100  # Krylov spaces, one after the other
GAIN = 0.97  # a Krylov space that leaves more of the residual than this gains nothing
LAP = {"cpu": 5, "cuda": 6}  # steps between two looks at the residual, each of which waits for the device
LONGEST_WAIT = 8  # steps between two looks at a chain that is solved alone
DEAR, EAGER = 2048, 0.5  # tokens from which a step costs a CPU more than a look, and what of a wait it then waits
ALONE = 400  # from so many tokens on, a CPU's cache holds one matrix at most: chain after chain is faster than a batch

Map = Callable[[Tensor], Tensor]


def solve(
    bounce: Map, rhs: Tensor, goal: Tensor, alphas: Tensor, avoid: Tensor | None, rows: int = 1
) -> tuple[Tensor, Tensor]:
    """Return d with || d (I - alpha M) - b ||_1 <= goal, or as far as one Krylov space goes.

    Parameters
    ----------
    bounce : callable
        v -> v M for rows (B, rows, n) of the flattened batch, in the rows' own type.
    rhs : Tensor
        b, (*batch, n); its type is what everything but the small problems is computed in.
    goal : Tensor
        (alphas, *batch): the L1 residual to stop at, as the recurrence gives it, not as a bounce would.
    alphas : Tensor
        Fits (alphas, *batch), float64 where the device has it.
    avoid : Tensor, optional
        A unit row (n,) that d is kept orthogonal to: round-off along it would be blown up.
    rows : int
        How many rows to bounce at a time, fewer than n.

    Returns
    -------
    d : Tensor
        (alphas, *batch, n).
    steps : Tensor
        Bounces until the goal was met, (alphas, *batch), int64.
    """
    space = _KrylovSpace(rhs, alphas.expand(goal.shape), avoid, rows)
    goals, before = goal.flatten().tolist(), space.norm1().expand(len(goal), -1).flatten().tolist()
    still = [place for place, (size, enough) in enumerate(zip(before, goals, strict=True)) if not size <= enough]
    steps, wait = [0] * len(goals), LAP.get(rhs.device.type, LAP["cuda"]) if rows == 1 else 1
    alone = rows == 1 and rhs.device.type == "cpu" and rhs.shape[-1] >= ALONE
    while still and space.steps < space.longest:
        for _ in range(wait):
            space.extend(bounce)
        left = space.residual().flatten().tolist()
        for place in still:
            steps[place] = space.steps
        still = [place for place in still if not left[place] <= goals[place]]  # the others keep their solutions
        if rows > 1:
            wait = min(1 + space.size // SELDOM, space.longest - space.steps)
        elif alone:
            falls = [(before[place], left[place], goals[place]) for place in still]
            wait = _due(falls, space.steps, EAGER if rhs.shape[-1] >= DEAR else 1)
    taken = torch.tensor(steps, dtype=torch.long, device=goal.device).view(goal.shape)
    return space.solution(taken.view(len(goal), -1)), taken


def flat(bounce: Map, shape: torch.Size) -> Map:
    """Make of a map of rows (..., *shape) one of several for each of a flattened batch, (B, rows, n)."""

    def flattened(rows: Tensor) -> Tensor:
        return bounce(rows.movedim(1, 0).reshape(-1, *shape)).reshape(-1, *rows[:, 0].shape).movedim(0, 1)

    return flattened


def _due(falls: list[tuple[float, float, float]], taken: int, share: float) -> int:
    """Return a share, 1 to LONGEST_WAIT, of the steps after which residuals meet their goals if they fall as before.

    Each was something at first, is something now, and has a goal. Only for a chain that is solved alone: in a batch,
    one chain's steps must not depend on another's. All of its alphas take the steps of the slowest.
    """
    waits = [1.0]
    for first, now, goal in falls:
        if now > goal > 0:
            waits.append(share * math.log(goal / now) / (math.log(min(now / first, 0.999)) / taken))
    return math.ceil(min(max(waits), LONGEST_WAIT))


class _KrylovSpace:
    """Orthonormal rows V spanning b, b M, b M^2, ..., and H with V[:size] M = H^T V (Arnoldi).

    With more than one row at a time, V also spans what random rows become. The batch is flat inside, (B, ...), with
    alphas in front, (S, B, ...).
    """

    def __init__(self, rhs: Tensor, alphas: Tensor, avoid: Tensor | None, block: int):
        self.shape, self.block = rhs.shape, block
        self.steps, self.size = 0, 0  # bounces, and rows bounced
        self.small = torch.device("cpu") if rhs.device.type == "mps" or block > 1 else rhs.device
        self.alphas = alphas.reshape(len(alphas), -1, 1, 1).to(self.small, torch.float64)
        self.held = 0 if avoid is None else 1  # rows in front of V that are only orthogonalised against
        self.least = torch.finfo(rhs.dtype).eps
        self.longest = LONGEST if block == 1 else LONGEST_BLOCKS
        most = block * (self.longest + (max(*LAP.values(), LONGEST_WAIT) if block == 1 else 0))  # rows to be bounced
        rows = without(rhs, avoid).reshape(-1, rhs.shape[-1])
        # Its images are H^T: row j is v_j M in terms of V.
        self.basis = Basis(len(rows), rows.shape[-1], self.held, block, most, rows.dtype, rows.device)
        if avoid is not None:
            self.basis.rows[:, 0] = avoid
        self.norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # (B, 1)
        first = self.basis.rows[:, self.held : self.held + block]
        torch.div(rows, self.norm.clamp(min=torch.finfo(rows.dtype).tiny), out=first[:, 0])
        if block > 1:
            first[:, 1:] = _beside(first[:, :1], avoid is not None, block)

    def norm1(self) -> Tensor:
        """L1 norm of b, (1, B)."""
        return (self.basis.rows[:, self.held].abs().sum(-1) * self.norm[:, 0]).unsqueeze(0)

    def extend(self, bounce: Map) -> None:
        """Bounce the newest rows and put what is new in them behind."""
        last, block = self.held + self.size, self.block
        images = bounce(self.basis.rows.narrow(1, last, block))
        for index in range(block):
            row, length, new = self.basis.split(images.narrow(1, index, 1), last + block + index)
            # Below round-off the space is closed under M; what follows is no more than small, and the solution exact.
            torch.div(row, length.clamp_(min=self.least), out=new)
        self.steps, self.size = self.steps + 1, self.size + block

    def residual(self) -> Tensor:
        """L1 norm of b - d (I - alpha M) for the best d in the space, (S, B), without solving for d."""
        return self._combined(self._unreached()).abs().sum(-1)

    def _unreached(self) -> Tensor:
        """Return what of the first unit row the small system I - alpha H cannot reach, (S, B, size + block)."""
        system = self._system()
        if self.block > 1:
            q = torch.linalg.qr(system).Q
            reached = (q @ q[..., :1, :].mT).squeeze(-1)
            return torch.eye(1, reached.shape[-1], dtype=reached.dtype, device=self.small) - reached
        # It has one row more than a triangular one: only one row g is beyond it, found without QR, slow on a GPU.
        g = torch.linalg.solve_triangular(system[..., 1:, :].mT, system[..., :1, :].mT, upper=False)
        g = torch.nn.functional.pad(-g.squeeze(-1), (1, 0), value=1)
        return g / g.square().sum(-1, keepdim=True)

    def solution(self, steps: Tensor) -> Tensor:
        """Return the best d after as many steps, (S, *batch, n); `steps` (S, B) may differ from chain to chain."""
        if self.size == 0:
            return self.basis.rows.new_zeros(*steps.shape[:1], *self.shape)
        q, r = torch.linalg.qr(self._system())
        reached = torch.arange(self.size, device=self.small) < self.block * steps.to(self.small).unsqueeze(-1)
        first = (q[..., 0, :] * reached).unsqueeze(-1)  # Q^T e_1; R is triangular, so the rest stays zero
        y = torch.linalg.solve_triangular(r, first, upper=True).squeeze(-1)
        return self._combined(y).reshape(-1, *self.shape)

    def _combined(self, weights: Tensor) -> Tensor:
        """Return |b| times the sums (S, B, n) of the first vectors with weights (S, B, count)."""
        vectors = self.basis.rows[:, self.held : self.held + weights.shape[-1]]
        weights = weights.to(vectors.device, vectors.dtype) * self.norm
        return torch.bmm(weights.transpose(0, 1), vectors).transpose(0, 1)

    def _system(self) -> Tensor:
        """I - alpha H, (S, B, size + block, size)."""
        size, every = self.size, self.size + self.block
        h = self.basis.images[:, :size, self.held : self.held + every].mT.to(self.small, torch.float64)
        return torch.eye(every, size, dtype=torch.float64, device=self.small) - self.alphas * h


def _beside(unit: Tensor, centred: bool, block: int) -> Tensor:
    """Return rows (B, block - 1, n) that are orthonormal to each other and to the unit rows (B, 1, n).

    Random rows, the same for all, are reflected by what takes the first of them to the unit row.
    """
    rows = random_rows(block, unit.shape[-1], centred)[int(centred) :].to(unit)
    turned = torch.where((unit * rows[:1]).sum(-1, keepdim=True) > 0, -unit, unit)  # the farther of both: no cancelling
    normal = rows[:1] - turned
    return rows[1:] - 2 * (rows[1:] @ normal.mT) / normal.square().sum(-1, keepdim=True) * normal


def without(rows: Tensor, avoid: Tensor | None) -> Tensor:
    """Take the part along the unit row `avoid` out of rows (..., n)."""
    if avoid is None:
        return rows
    avoid = avoid.to(rows.dtype)
    return rows - (rows @ avoid).unsqueeze(-1) * avoid


def at_once(operator: Operator, regular: bool) -> int:
    """Return how many rows to bounce at a time. In chains that may not be regular, random ones could move the limit."""
    return TOGETHER if regular and operator.matrix_free and operator.n >= LARGE else 1


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
