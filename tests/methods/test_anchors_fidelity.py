"""Anchors are those of protocol 3.1 (uniform grid) and 3.3 (TokenRank with suppression and fallback)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains import methods
from attention_chains.methods import MethodError
from attention_chains.methods.grouping import spaced


def anchors(name, tensor, side, grid=16):
    return methods.bind(name, {}, kind="anchors")(tensor, side, grid).tolist()


def attention(side, seed=0, sharpness=1.0):
    draw = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(side**2, side**2, generator=draw)).softmax(-1)


def test_the_uniform_grid_of_protocol_3_1_row_by_row():
    along = range(1, 62, 4)
    assert anchors("uniform_grid", torch.empty(0), 64) == [64 * row + column for row in along for column in along]


@given(st.integers(1, 80).flatmap(lambda side: st.tuples(st.just(side), st.integers(1, side))))
def test_a_uniform_grid_is_even_and_centred(sizes):
    side, grid = sizes
    found = np.array(anchors("uniform_grid", torch.empty(0), side, grid=grid))
    rows, columns = found.reshape(grid, grid) // side, found.reshape(grid, grid) % side
    assert (rows == columns.T).all() and (rows == rows[:, :1]).all()
    along = rows[:, 0]
    assert len(set(np.diff(along))) <= 1 and along[0] in (side - 1 - along[-1], side - 2 - along[-1])
    assert grid == 1 or along[1] - along[0] == (side - 1) // (grid - 1)


def taken(order, side, count, distance):
    """Protocol 3.3, token by token."""
    chosen = []
    for token in order:
        far = all(math.dist(divmod(token, side), divmod(other, side)) >= distance for other in chosen)
        if far and len(chosen) < count:
            chosen.append(token)
    rest = [token for token in order if token not in chosen]
    return chosen, chosen + rest[: count - len(chosen)]


@given(
    st.integers(1, 9).flatmap(
        lambda side: st.tuples(st.just(side), st.permutations(range(side**2)), st.integers(1, side**2))
    ),
    st.floats(0, 12) | st.sampled_from([1.0, 2.0, 5.0, 2**0.5, 5**0.5]),
)
def test_suppression_takes_in_order_and_fills_up_in_order(given_, distance):
    side, order, count = given_
    _, expected = taken(order, side, count, distance)
    assert spaced(torch.tensor(order), side, count, distance).tolist() == expected


def test_a_distance_of_exactly_five_is_far_enough():
    order = torch.tensor([0, 3 * 64 + 3, 3 * 64 + 4, *range(1, 195), 196, *range(197, 4096)])
    assert spaced(order, 64, 2, 5.0).tolist() == [0, 3 * 64 + 4]


def test_tokenrank_anchors_follow_the_stationary_vector():
    tensor, side = attention(8, 1, 2.0), 8
    surfer = 0.99 * tensor.double() + 0.01 / 64
    rank = torch.linalg.matrix_power(surfer, 4000)[0]
    order = rank.argsort(descending=True).tolist()
    _, expected = taken(order, side, 16, 5.0 * 8 / 64)
    assert anchors("tokenrank_grid", tensor, side, grid=4) == expected


def test_a_random_order_on_the_papers_map_leaves_about_half_to_the_fallback():
    """Protocol 3.3: from 119 to 146 points fit at a distance of 5."""
    found = anchors("tokenrank_grid", attention(64), 64)
    spaced_, _ = taken(found, 64, 256, 5.0)
    assert 110 <= len(spaced_) <= 150 and found[: len(spaced_)] == spaced_
    assert len(set(found)) == 256


def test_the_distance_is_in_cells_of_a_map_of_64():
    tensor = attention(32)
    found = anchors("tokenrank_grid", tensor, 32)
    spaced_, _ = taken(found, 32, 256, 2.5)
    assert 80 <= len(spaced_) <= 130 and found[: len(spaced_)] == spaced_


@pytest.mark.parametrize("name", ["uniform_grid", "tokenrank_grid"])
def test_more_anchors_than_tokens_are_refused(name):
    with pytest.raises(MethodError, match=r"task\.grid is 16, but there are 8 x 8 tokens: choose from 1 to 8"):
        anchors(name, attention(8), 8)


@pytest.mark.parametrize("name", ["uniform_grid", "tokenrank_grid"])
def test_as_many_anchors_as_tokens_are_all_of_them(name):
    assert sorted(anchors(name, attention(5), 5, grid=5)) == list(range(25))


@pytest.mark.parametrize("name", ["uniform_grid", "diffseg"])
def test_a_key_that_is_not_taken_is_refused(name):
    kind = "anchors" if name == "uniform_grid" else "segments"
    with pytest.raises(MethodError, match=f"Method '{name}' does not take 'alpha'"):
        methods.bind(name, {"alpha": 0.9}, kind=kind)
