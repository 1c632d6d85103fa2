"""lambda2: how slowly a chain forgets where it started (paper, section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain.operators import Operator, Teleported, single, widest_dtype

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
    alpha, bare = _without_teleport(operator)
    return alpha * _second_modulus(bare)


def lambda2_with_info(operator: Operator, tol: float) -> tuple[Tensor, Lambda2Info]:
    """Return lambda2 and how far it can be trusted."""
    alpha, bare = _without_teleport(operator)
    value, other = alpha * _second_modulus(bare), alpha * _second_modulus(bare, transposed=True)
    error = (value - other).abs()
    return value, Lambda2Info(error, error <= (tol * value).clamp(min=ABSOLUTE_FLOOR))


def _without_teleport(operator: Operator) -> tuple[float, Operator]:
    """Teleport scales every eigenvalue but the first by alpha, exactly: return that factor and the bare operator."""
    alpha = 1.0
    while isinstance(operator, Teleported):
        alpha, operator = alpha * operator.alpha, operator.base
    return alpha, operator


def _second_modulus(operator: Operator, transposed: bool = False) -> Tensor:
    """Second largest modulus of each chain, (*batch_shape,) float64, where the device has it.

    One matrix at a time: the solver takes them so anyway, and no second batch of them is held in float64.
    """
    dtype, count = widest_dtype(operator.device), operator.batch_shape.numel()
    if operator.n == 1 or count == 0:
        return torch.zeros(operator.batch_shape, dtype=dtype, device=operator.device)
    moduli = []
    for index in range(count):
        matrix = single(operator, index).dense(dtype)
        moduli.append(_second_of(matrix.mT if transposed else matrix))
    return torch.stack(moduli).view(operator.batch_shape).to(operator.device, dtype)


def _second_of(matrix: Tensor) -> Tensor:
    """All eigenvalues, so that complex pairs come out right; float32 was off by up to 2e-3 on drifting heads."""
    matrix = matrix.cpu() if matrix.device.type == "mps" else matrix  # MPS has no eigenvalues and no float64
    return torch.linalg.eigvals(matrix.double()).abs().topk(2).values[1].clamp(max=1)
