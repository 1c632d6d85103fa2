"""Gradients of the stationary vector by the implicit function theorem: one more linear solve, no unrolled steps.

x = x P moves by dx = (x dP)(I - P)^-1 on the states that sum to zero. So a gradient g of x pulls back through one
bounce x P of the fixed x, as the column l with (I - P) l = g up to a constant: x dP sums to zero and ignores constants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attention_chains.chain import certificate, gmres
from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import Operator, bouncing
from attention_chains.chain.precision import full_precision

ACCURACY = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the adjoint system: residual over right-hand side, L1


def attach(operator: Operator, rank: Tensor) -> Tensor:
    """Return `rank`, differentiable with respect to whatever the operator is made of."""
    if not (torch.is_grad_enabled() and _differentiable(operator)):
        return rank
    return _Stationary.apply(operator.apply(rank), rank, operator)


def _differentiable(part: object) -> bool:
    """Whether a tensor that an operator is made of requires a gradient."""
    if isinstance(part, Tensor):
        return part.requires_grad
    return hasattr(part, "apply_transposed") and any(map(_differentiable, vars(part).values()))


class _Stationary(torch.autograd.Function):
    """Gives the rank; takes its gradient to that of one bounce."""

    @staticmethod
    def forward(ctx: Any, bounced: Tensor, rank: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        return rank.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Any, Any]:
        if torch.is_grad_enabled():
            raise ChainError("TokenRank has no second derivatives: ask for its gradient without create_graph")
        pieces = gmres.parts(ctx.operator)
        rows = gradient.reshape(len(pieces), *pieces[0].batch_shape, ctx.operator.n)
        with full_precision(gradient.device):
            pulled = [_pull_back(part, row) for part, row in zip(pieces, rows, strict=True)]
        return torch.stack(pulled).to(gradient.dtype).view(gradient.shape), None, None


def _pull_back(operator: Operator, gradient: Tensor) -> Tensor:
    """Solve (I - P) l = g up to constants: for columns that sum to zero, and with what P adds to them taken out."""
    constant = gmres.constant(operator)
    rows = gmres.without(gradient.to(constant.dtype), constant)
    goal = rows.abs().sum(-1) * ACCURACY[operator.dtype]
    return _refined(operator, rows, goal, constant)


def _refined(operator: Operator, rhs: Tensor, goal: Tensor, constant: Tensor) -> Tensor:
    """Solve l (I - P^T) = b, and the correction again, until the residual meets the goal, or nothing more is gained.

    All as rows (*batch, n) in b's type; the Krylov space is first of the operator's own type, then of b's.
    """
    solution, residual = torch.zeros_like(rhs), rhs
    one = torch.ones(1, *(1,) * goal.ndim, dtype=rhs.dtype, device=rhs.device)
    together = gmres.at_once(operator, certificate.is_regular(operator))
    for dtype in dict.fromkeys((operator.dtype, rhs.dtype)):
        bounce = bouncing(operator, together, dtype, transposed=True)
        for _ in range(gmres.CYCLES):
            unmet = residual.abs().sum(-1) > goal
            if not unmet.any():
                return solution
            within = (goal / 2).where(unmet, torch.inf).unsqueeze(0)
            step, _ = gmres.solve(bounce, residual.to(dtype), within, one, constant, together)
            tried = solution + step[0]
            left = gmres.without(rhs - tried + operator.apply_transposed(tried), constant)
            better = unmet & (left.abs().sum(-1) < gmres.GAIN * residual.abs().sum(-1))
            if not better.any():
                break
            solution = torch.where(better.unsqueeze(-1), tried, solution)
            residual = torch.where(better.unsqueeze(-1), left, residual)
    return solution
