"""lambda2: how slowly a chain forgets where it started (paper, section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain.operators import DenseOperator, Operator, Teleported
from attention_chains.chain.stationary import widest_dtype

ABSOLUTE_FLOOR = 1e-6  # lambda2 and its error count as zero up to here


@dataclass(frozen=True)
class Lambda2Info:
    """How far a lambda2 can be trusted; both fields have the chain's batch shape.

    Attributes
    ----------
    error : Tensor
        Absolute difference between the float64 results of P and of its transpose. They have the same eigenvalues, so
        what differs is round-off, blown up by the eigenvalue's condition number. An estimate, not a bound.
    converged : Tensor
        Whether the error meets the tolerance. False flags an ill-posed lambda2: no algorithm can settle it.
    """

    error: Tensor
    converged: Tensor


def lambda2(operator: Operator) -> Tensor:
    """Return the second largest eigenvalue modulus, (*batch_shape,), float64."""
    alpha, matrix = _without_teleport(operator)
    return alpha * _second_modulus(matrix)


def lambda2_with_info(operator: Operator, tol: float) -> tuple[Tensor, Lambda2Info]:
    """Return lambda2 and how far it can be trusted."""
    alpha, matrix = _without_teleport(operator)
    value, other = alpha * _second_modulus(matrix), alpha * _second_modulus(matrix.mT)
    error = (value - other).abs()
    return value, Lambda2Info(error, error <= (tol * value).clamp(min=ABSOLUTE_FLOOR))


def _without_teleport(operator: Operator) -> tuple[float, Tensor]:
    """Teleport scales every eigenvalue but the first by alpha, exactly: return that factor and the bare matrix."""
    alpha = 1.0
    while isinstance(operator, Teleported):
        alpha, operator = alpha * operator.alpha, operator.base
    exact = operator if isinstance(operator, DenseOperator) else operator.to(widest_dtype(operator.device))
    return alpha, exact.dense()


def _second_modulus(matrix: Tensor) -> Tensor:
    """Second largest modulus of each matrix (..., n, n): (...,) float64, where the device has it.

    One matrix at a time: the solver takes them so anyway, and no second batch of them is held in float64.
    """
    if matrix.shape[-1] == 1 or matrix.shape[:-2].numel() == 0:
        return matrix.new_zeros(matrix.shape[:-2], dtype=widest_dtype(matrix.device))
    moduli = [_second_of(one) for one in matrix.flatten(0, -3)] if matrix.ndim > 2 else [_second_of(matrix)]
    return torch.stack(moduli).view(matrix.shape[:-2]).to(matrix.device, widest_dtype(matrix.device))


def _second_of(matrix: Tensor) -> Tensor:
    """All eigenvalues, so that complex pairs come out right; float32 was off by up to 2e-3 on drifting heads."""
    matrix = matrix.cpu() if matrix.device.type == "mps" else matrix  # MPS has no eigenvalues and no float64
    return torch.linalg.eigvals(matrix.double()).abs().topk(2).values[1].clamp(max=1)
