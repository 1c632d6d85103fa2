"""Metastable sets: tokens among which a chain lingers, by GPCCA (Reuter, Weber, Fackeldey, Roeblitz & Garcia 2018).

GPCCA is PCCA+ for chains that are not reversible: real bases of invariant subspaces take the place of eigenvectors. The
right subspace of the k leading eigenvalues is nearly constant on sets that the chain seldom leaves, or that it visits
in turn; memberships are the crispest combinations of its vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_chains.chain import arnoldi
from attention_chains.chain.crispness import crispest
from attention_chains.chain.errors import ChainError
from attention_chains.chain.operators import Operator, normalised
from attention_chains.chain.precision import widest_dtype

EQUAL = 1e-6  # spectral gaps count as equal within this


@dataclass(frozen=True)
class MetastableInfo:
    """How good a division into k sets is; every field has the chain's batch shape in front.

    Attributes
    ----------
    crispness : Tensor
        (...,), above 0, at most 1: trace(S) / k, S the overlap of the sets, ``(chi^T D chi)_ij / (chi^T D 1)_i``. One
        where each token belongs to one set alone.
    coarse : Tensor
        (..., k, k): the chain over the sets, P_c with ``P chi = chi P_c``. Rows sum to one; where sets overlap, entries
        may be below zero.
    eigenvalues : Tensor
        (..., k) complex: the leading eigenvalues, by falling modulus; also those of `coarse`.
    residual : Tensor
        (...,): the largest entry of ``abs(P chi - chi P_c)``. Zero, up to the solver's tolerance, if the sets come from
        an invariant subspace.
    converged : Tensor
        (...,) bool: whether the subspace met the solver's tolerance. If not, which happens only where a chain has too
        many tokens to fall back to all eigenvalues, the sets are of a subspace that is not invariant.
    """

    crispness: Tensor
    coarse: Tensor
    eigenvalues: Tensor
    residual: Tensor
    converged: Tensor


@torch.no_grad()
def metastable_sets(operator: Operator, k: int, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return memberships (*batch_shape, n, k), the k eigenvalues, and whether the subspace converged (*batch_shape,).

    The subspace is found on the chain's device, batched. The crispest memberships in it are found on the CPU, one chain
    after the other: thousands of tiny steps that end after a number of rounds that only the chain knows.
    """
    bases, eigenvalues, converged = _invariant(operator, k)
    eta = normalised(weights.detach().cpu().double()).expand(bases.shape[:-1]).reshape(-1, operator.n)
    chi = torch.empty_like(bases).reshape(-1, operator.n, k)
    for out, basis, weight in zip(chi, bases.reshape(chi.shape), eta, strict=True):
        out.copy_(_memberships(basis, weight))
    chi = chi.view(bases.shape)
    return chi.to(operator.device, widest_dtype(operator.device)), eigenvalues, converged


@torch.no_grad()
def gap_size(operator: Operator, k_max: int) -> int:
    """Return the k, from 2 to k_max, of the largest spectral gap, abs(lambda_k) - abs(lambda_(k + 1)).

    For a batch, of the largest mean gap. Sizes that would split a conjugate pair of some chain are passed over, equal
    gaps go to the smaller k, and lambda_(n + 1) counts as zero.
    """
    largest = min(k_max, operator.n)
    if largest < 2 or not operator.batch_shape.numel():
        return 1
    eigenvalues = arnoldi.leading_subspace(operator, min(largest + 1, operator.n), transposed=True).eigenvalues
    eigenvalues = eigenvalues.cpu().reshape(-1, eigenvalues.shape[-1])
    moduli = torch.cat([eigenvalues.abs(), torch.zeros(len(eigenvalues), 1, dtype=torch.float64)], -1)
    gaps = (moduli[:, 1:largest] - moduli[:, 2 : largest + 1]).mean(0)  # at k = 2, ..., largest
    splits = ((eigenvalues.imag != 0).cumsum(-1) % 2 == 1).any(0)[1:largest]
    if splits.all():
        raise ChainError(
            f"each k from 2 to {largest} would split a conjugate pair of eigenvalues of some chain of the batch: raise "
            "k_max, or take the chains one by one"
        )
    return 2 + int((gaps / EQUAL).round().masked_fill(splits, -torch.inf).argmax())


def _invariant(operator: Operator, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return bases of the leading right subspaces, (*batch_shape, n, k), on the CPU, eigenvalues, and convergence."""
    if k == 1:
        ones = torch.ones(*operator.batch_shape, operator.n, 1, dtype=torch.float64)
        known = torch.ones(operator.batch_shape, dtype=torch.bool, device=operator.device)
        return ones, ones[..., 0, :].to(torch.complex128), known
    found = arnoldi.leading_subspace(operator, k, transposed=True)
    if (split := found.size.cpu() != k).any():
        at = tuple(split.nonzero()[0].tolist())
        where = f" of batch element {at}" if at else ""
        raise ChainError(f"k = {k} would split a conjugate pair of eigenvalues{where}: take k = {k - 1} or k = {k + 1}")
    return found.basis[..., :k].to("cpu", torch.float64), found.eigenvalues[..., :k], found.converged


def _memberships(basis: Tensor, eta: Tensor) -> Tensor:
    """Return the crispest memberships (n, k) in the span of `basis` (n, k), their sets by falling weight."""
    chi = crispest(_centred(basis, eta), eta.min().item())
    masses = (eta @ chi * 1e9).round()  # equal up to round-off counts as equal: then the set of the first token first
    order = chi.argmax(0).argsort(stable=True)
    return chi[:, order[masses[order].argsort(descending=True, stable=True)]]


def _centred(basis: Tensor, eta: Tensor) -> Tensor:
    """Return what spans, with the constant vector, the span of `basis`: (n, k - 1), mean zero and covariance one.

    The constant vector lies in the span, so centring leaves k - 1 dimensions.
    """
    centred = basis - eta @ basis
    _, lengths, turn = torch.linalg.svd(eta.sqrt().unsqueeze(-1) * centred, full_matrices=False)
    return (centred @ turn.mT / lengths)[:, : basis.shape[-1] - 1]


@torch.no_grad()
def measure(operator: Operator, chi: Tensor, weights: Tensor, eigenvalues: Tensor, converged: Tensor) -> MetastableInfo:
    """Say how good memberships are; takes one bounce of each set."""
    weighted = (normalised(weights.to(chi)).unsqueeze(-1) * chi).mT
    bounced = operator.apply_transposed(chi.movedim(-1, 0)).movedim(0, -1)
    overlap = weighted @ chi
    coarse = torch.linalg.solve(overlap, weighted @ bounced)
    stay = overlap.diagonal(dim1=-2, dim2=-1) / weighted.sum(-1)
    residual = (bounced - chi @ coarse).abs().amax((-2, -1))
    return MetastableInfo(stay.mean(-1).to(operator.dtype), coarse.to(operator.dtype), eigenvalues, residual, converged)
