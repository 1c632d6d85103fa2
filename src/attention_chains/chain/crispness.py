"""The crispest memberships that an invariant subspace holds: the optimisation of PCCA+, as a linear program.

PCCA+ (Roeblitz & Weber 2013) looks for memberships chi = X A, not negative and with rows summing to one, of greatest
crispness. X is (n, k), its first column all ones, its columns orthonormal under the tokens' weights eta. The usual
search over the (k - 1)^2 free entries of A ends in local maxima. It is in truth a linear program:

- Set j, divided by its mass w_j = sum_i eta_i chi_ij, is a function 1 + x_i . y_j that is nowhere negative. So y_j is a
  point of the polytope Q = {y : 1 + x_i . y >= 0 for every token i}, x_i the other k - 1 columns.
- The rows sum to one exactly if the masses make the origin the mean of these points: sum_j w_j y_j = 0, sum_j w_j = 1.
- k times the crispness is sum_j w_j (1 + |y_j|^2). Linear in the masses, convex in the points: corners of Q do.

So, over all corners of Q, masses are sought that are linear in everything; a basic solution has k of them above zero,
which is why asking for k sets takes nothing away. Its dual is a sphere through the k points: a corner outside of it
improves the solution. Such corners come from further linear programs, in k - 1 unknowns, that go from the sphere's
centre outwards in many directions. That is a search, no proof; but where listing every corner is possible, up to 20,000
of them, it fell short of the best by 4e-5 at most, and by round-off in all chains but those that drift around a ring.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

DIRECTIONS = 128  # half as many leave drifting heads, where thousands of corners are nearly equal, 8e-5 short
PATIENCE = 2  # rounds without a gain after which the search ends
GAIN = 1e-10  # relative; less is round-off
FEASIBLE = 1e-10  # how far below zero round-off may take 1 + x . y
PIVOT = 1e-11  # an entry that is divided by is larger


def crispest(points: Tensor, smallest: float) -> Tensor:
    """Return the crispest memberships, (n, k) float64: not negative, rows summing to one.

    Parameters
    ----------
    points : Tensor
        x, (n, k - 1) float64 on the CPU, of weighted mean zero and weighted covariance one.
    smallest : float
        The smallest weight of a token. As 1 + x . y has mean one, no point of Q is longer than ``smallest ** -0.5``.
    """
    if not points.shape[-1]:
        return torch.ones(len(points), 1, dtype=points.dtype)
    vertices, masses = _best(points, 2 * smallest**-0.5)
    memberships = ((1 + points @ vertices.mT) * masses).clamp(min=0)
    return memberships / memberships.sum(-1, keepdim=True)


def inner_simplex(points: Tensor) -> Tensor:
    """Return the rows of (n, d) that span a large simplex, (d + 1,): each is farthest from those before."""
    chosen = [points.square().sum(-1).argmax()]
    rest = points - points[chosen[0]]
    for _ in range(points.shape[-1]):
        lengths = rest.square().sum(-1)
        chosen.append(lengths.argmax())
        unit = rest[chosen[-1]] / lengths.max().sqrt()
        rest = rest - (rest @ unit).unsqueeze(-1) * unit
    return torch.stack(chosen)


def _best(points: Tensor, box: float) -> tuple[Tensor, Tensor]:
    """Return the k points of Q (k, k - 1), and their masses (k,)."""
    pool = found = _feasible_start(points)
    basis, centre, best, idle = torch.arange(len(pool)), torch.zeros_like(pool[0]), -torch.inf, 0
    generator = torch.Generator().manual_seed(0)  # the same answer at every call
    while idle < PATIENCE:
        directions = torch.randn(DIRECTIONS, pool.shape[-1], generator=generator, dtype=pool.dtype)
        pool = torch.cat([pool, corners(points, torch.cat([found - centre, directions]), box)])
        basis, masses, centre = heaviest(pool, basis)
        value = (masses @ pool[basis].square().sum(-1)).item()
        idle, best = (0, value) if value > best + GAIN * value else (idle + 1, best)
        pool, found = _farthest(pool, basis, centre)
        basis = torch.arange(len(masses))
    return pool[basis], masses


def _feasible_start(points: Tensor) -> Tensor:
    """Return k points of Q around the origin, (k, k - 1), from the inner simplex: the usual first guess of PCCA+."""
    simplex = pad(points[inner_simplex(points)], (1, 0), value=1.0)
    slopes = torch.linalg.inv(simplex)[1:]  # (k - 1, k): memberships that are one at their own token of the simplex
    return (slopes / -(points @ slopes).amin(0)).mT


def _farthest(pool: Tensor, basis: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return the solution's points with the others farthest from the centre behind, and those others alone."""
    scale = pool.abs().max() / 1e7
    found = (pool / scale).round().unique(dim=0) * scale  # without repeats; rounded, so good for directions only
    _, index = (found - centre).square().sum(-1).topk(min(len(found), DIRECTIONS))
    return pool[basis], found[index]


def corners(points: Tensor, directions: Tensor, box: float) -> Tensor:
    """Return the corners of Q that lie farthest in each direction, by the dual simplex method, all directions at once.

    Parameters
    ----------
    points : Tensor
        x, (n, d).
    directions : Tensor
        (directions, d).
    box : float
        The method starts from a corner of the cube of this half width, which must hold Q.

    Returns
    -------
    Tensor
        (at most as many as directions, d), in no order.
    """
    signs = 1 - 2 * (directions < 0).to(points.dtype)
    sides, limits = torch.diag_embed(signs), torch.full_like(directions, box)  # a corner y: sides @ y = limits
    found = []
    for _ in range(50 + 20 * points.shape[-1]):
        inverse = torch.linalg.inv_ex(sides)[0]
        corner = torch.einsum("gde,ge->gd", inverse, limits)
        violated, token = (corner @ -points.mT).max(-1)
        inside = violated <= 1 + FEASIBLE
        found.append(corner[inside])
        if inside.all():
            break
        directions, inverse, limits, sides, token = (
            values[~inside] for values in (directions, inverse, limits, sides, token)
        )
        entering = -points[token]
        prices, rates = (torch.einsum("ge,ged->gd", row, inverse) for row in (directions, entering))
        leaving = one_hot(_ratio_test(prices, rates), points.shape[-1]).bool()
        sides = torch.where(leaving.unsqueeze(-1), entering.unsqueeze(-2), sides)
        limits = limits.masked_fill(leaving, 1)
    return torch.cat(found)


def heaviest(pool: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k points of the pool, and masses of mean zero, that maximise sum_j w_j |y_j|^2: the simplex method.

    Parameters
    ----------
    pool : Tensor
        y, (points, k - 1).
    basis : Tensor
        Indices (k,) of points to begin with, around the origin.

    Returns
    -------
    basis, masses, centre : Tensor
        Indices (k,), masses (k,), and the centre (k - 1,) of the sphere through these points.
    """
    columns, gains = pad(pool, (1, 0), value=1.0), pool.square().sum(-1)
    for _ in range(50 + 20 * len(basis)):
        inverse = torch.linalg.inv(columns[basis].mT)
        prices = gains[basis] @ inverse
        gain, entering = (gains - columns @ prices).max(-1)
        if gain <= GAIN * gains.max():
            break
        leaving = _ratio_test(inverse[:, 0], inverse @ columns[entering])
        basis = torch.where(torch.arange(len(basis)) == leaving, entering, basis)
    return basis, inverse[:, 0].clamp(min=0), prices[1:] / 2


def _ratio_test(values: Tensor, rates: Tensor) -> Tensor:
    """Return which of the values, (..., d), reaches zero first when each falls at its rate."""
    return torch.where(rates > PIVOT, values.clamp(min=0) / rates, torch.inf).argmin(-1)
