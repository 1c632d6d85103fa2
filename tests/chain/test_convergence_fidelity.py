"""Mixing times and bounces until stationary are the smallest numbers for which they say what they say."""

import numpy as np
import pytest
import torch
from heads import KINDS, heads

from attention_chains.chain import AttentionChain, ChainError
from attention_chains.chain.operators import DenseOperator

NEVER = torch.iinfo(torch.int64).max


def stationary(matrix):
    n = len(matrix)
    return np.linalg.solve((np.eye(n) - matrix + 1 / n).T, np.full(n, 1 / n))


def distances(matrix, starts):
    """L1 distances to stationary before each bounce, without end: the worst of the starts, (starts, n)."""
    rank = stationary(matrix)
    while True:
        yield np.abs(starts - rank).sum(-1).max()
        starts = starts @ matrix


def first(values, below):
    return next(time for time, value in enumerate(values) if value <= below)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eps", [0.25, 0.01])
def test_mixing_time_is_the_first_power_whose_rows_are_near(kind, eps):
    matrices = heads(kind, 24, seed=1, count=4, dtype=torch.float64)
    chain = AttentionChain(matrices).teleport(0.99)
    times = chain.mixing_time(eps)
    assert times.shape == (4,)
    assert times.dtype == torch.int64
    for time, matrix in zip(times, chain.matrix().numpy(), strict=True):
        assert time == first(distances(matrix, np.eye(24)), 2 * eps)


def test_mixing_time_counts_on_for_very_slow_chains():
    leak = 1e-6  # the distance of the worse start is 3/4 (1 - 4 leak)^t
    matrix = torch.tensor([[1 - leak, leak], [3 * leak, 1 - 3 * leak]], dtype=torch.float64)
    expected = np.ceil(np.log(0.25 / 0.75) / np.log1p(-4 * leak))
    assert abs(AttentionChain(matrix).mixing_time().item() - expected) <= 1


@pytest.mark.parametrize(
    ("name", "matrix", "time"),
    [
        ("one token", torch.ones(1, 1), 0),
        ("rank one", torch.full((4, 4), 0.25), 1),
        ("identity", torch.eye(3), NEVER),
        ("period 2", torch.eye(2).flip(0), NEVER),
        ("period 3", torch.eye(3).roll(1, 0), NEVER),
        ("two classes", torch.block_diag(torch.full((2, 2), 0.5), torch.full((2, 2), 0.5)), NEVER),
        ("absorbing", torch.tensor([[1.0, 0.0], [0.5, 0.5]]), 2),
        ("lazy shift", 0.5 * torch.eye(3) + 0.5 * torch.eye(3).roll(1, 0), 2),
    ],
)
def test_degenerate_chains_mix_when_they_should(name, matrix, time):
    assert AttentionChain(matrix).mixing_time().item() == time


def test_chains_that_never_mix_sort_behind_all_that_do():
    times = AttentionChain(torch.stack([torch.eye(2), torch.full((2, 2), 0.5)])).mixing_time()
    assert times.argsort().tolist() == [1, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounces_until_stationary_are_counted_from_any_start(kind, dtype):
    chain = AttentionChain(heads(kind, 30, seed=2, count=2, dtype=dtype)).teleport(0.99)
    exact = chain._operator.dense(torch.float64).numpy()
    exact = exact / exact.sum(-1, keepdims=True)
    starts = {"uniform": np.full(30, 1 / 30), 3: np.eye(30)[3]}
    for start, row in starts.items():
        times = chain.first_bounces_until(1e-3, start=start)
        assert times.tolist() == [first(distances(matrix, row[None]), 1e-3) for matrix in exact]


def test_every_start_has_a_count_of_its_own(fig2):
    times = fig2.first_bounces_until(1e-4, start=torch.arange(5))
    assert times.tolist() == [fig2.first_bounces_until(1e-4, start=token).item() for token in range(5)]
    assert fig2.first_bounces_until(1e-4, start=fig2.tokenrank(1e-10)).item() == 0


def test_the_limit_is_kept(fig2):
    enough = fig2.first_bounces_until(1e-6).item()
    assert fig2.first_bounces_until(1e-6, limit=enough).item() == enough
    assert fig2.first_bounces_until(1e-6, limit=enough - 1).item() == NEVER
    assert AttentionChain(torch.eye(2).flip(0)).first_bounces_until(start=0, limit=50).item() == NEVER


@pytest.mark.parametrize("eps", [0, 0.5, -1, None, float("nan")])
def test_an_eps_that_is_no_distance_is_named(fig2, eps):
    with pytest.raises(ChainError, match="eps must be"):
        fig2.mixing_time(eps)


def test_matrix_free_chains_say_why_they_have_no_mixing_time_and_what_to_use():
    operator = DenseOperator.normalising(torch.full((3, 3), 1 / 3))
    operator.matrix_free = True
    chain = AttentionChain._over(operator)
    with pytest.raises(ChainError, match="first_bounces_until"):
        chain.mixing_time()
    assert chain.first_bounces_until(start=0).item() == 1


def test_autocast_changes_nothing():
    chain = AttentionChain(heads("clustered", 50, seed=3)[0]).teleport(0.99)
    plain = chain.mixing_time(), chain.first_bounces_until()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (chain.mixing_time(), chain.first_bounces_until()) == plain
