"""Synthetic attention heads of the kinds that transformers show, lambda2 from about 0.01 to 0.999.

Each head of a kind has strengths of its own, so that a batch covers the kind. Rows sum to one in float64, then rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

FEATURES = 64  # of a query
KINDS = ("clustered", "local", "shift", "cycle", "sink", "random", "peaked")


def heads(kind: str, n: int, seed: int, count: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return `count` row-stochastic matrices of one kind, (count, n, n); the same ones for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    scores = [SCORES[kind](n, generator) for _ in range(count)]
    return torch.stack([score.softmax(-1).to(dtype) for score in scores])


def drift(n: int, strength: float, seed: int = 0) -> Tensor:
    """Return the scores of a previous-token head on a line, (n, n): the stronger, the more ill-posed its lambda2."""
    token = torch.arange(n)
    previous = (token[:, None] == token + 1) | (token[:, None] + token == 0)  # the first token attends to itself
    return _noise(n, torch.Generator().manual_seed(seed)) + strength * previous


def _clustered(n: int, generator: torch.Generator) -> Tensor:
    """A few groups of unequal size, each leaking slowly to the others."""
    groups, depth = int(_between(2, 9, generator)), _between(2, 8.5, generator)
    member = torch.randint(groups, (n,), generator=generator)
    return _noise(n, generator) + depth * (member[:, None] == member)


def _local(n: int, generator: torch.Generator) -> Tensor:
    """A band: tokens attend to their neighbours on a line."""
    width = n * _between(0.015, 0.12, generator)
    return -0.5 * (_distance(n) / width) ** 2 + 0.3 * _noise(n, generator)


def _shift(n: int, generator: torch.Generator) -> Tensor:
    """A narrow band to one side, around a ring: nearly a permutation, with complex pairs close to the circle."""
    width, ahead = n * _between(0.01, 0.06, generator), n * _between(0.02, 0.3, generator)
    around = torch.remainder(_distance(n) - ahead + n / 2, n) - n / 2
    return -0.5 * (around / width) ** 2 + 0.3 * _noise(n, generator)


def _cycle(n: int, generator: torch.Generator) -> Tensor:
    """Groups that attend to the next one, in a ring of 3 to 8."""
    period, depth = int(_between(3, 9, generator)), _between(2, 8, generator)
    member = torch.arange(n) % period
    return _noise(n, generator) + depth * (member == (member[:, None] + 1) % period)


def _sink(n: int, generator: torch.Generator) -> Tensor:
    """Most attention on one or two tokens."""
    depth, sinks = _between(3, 8, generator), int(_between(1, 3, generator))
    return _noise(n, generator) + depth * (torch.arange(n) < sinks)


def _random(n: int, generator: torch.Generator) -> Tensor:
    """Noise: eigenvalues all over a disc, none apart from the others."""
    return _between(0.3, 2, generator) * _noise(n, generator)


def _peaked(n: int, generator: torch.Generator) -> Tensor:
    """Each token attends to a few random ones only."""
    return _between(3, 6, generator) * _noise(n, generator)


SCORES: dict[str, Callable[[int, torch.Generator], Tensor]] = dict(
    zip(KINDS, (_clustered, _local, _shift, _cycle, _sink, _random, _peaked), strict=True)
)


def _noise(n: int, generator: torch.Generator) -> Tensor:
    """Scores of random queries and keys, of variance one: like those of attention, of no higher rank than FEATURES."""
    q, k = torch.randn(2, n, FEATURES, generator=generator, dtype=torch.float64)
    return q @ k.T / math.sqrt(FEATURES)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    share = torch.rand((), generator=generator, dtype=torch.float64).item()
    return math.exp(math.log(low) + share * math.log(high / low))


def _distance(n: int) -> Tensor:
    token = torch.arange(n, dtype=torch.float64)
    return token[:, None] - token
