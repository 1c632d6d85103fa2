"""Which images are drawn depends on their number and the seed alone, for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.data.labelled import draw

counts = st.integers(1, 200)
seeds = st.integers(0, 2**32 - 1)


def test_the_draw_of_the_paper_scale_is_numpys_of_seed_0():
    legacy = np.random.RandomState(0).choice(50_000, 5000, replace=False)
    assert draw(50_000, 5000, 0) == legacy.tolist()
    assert draw(50_000, 5, 0) == [11841, 19602, 45519, 25747, 42642]


@given(count=counts, n=st.integers(1, 300), seed=seeds)
def test_a_draw_takes_each_image_once_at_most(count, n, seed):
    drawn = draw(count, n, seed)
    assert len(drawn) == len(set(drawn)) == min(n, count)
    assert set(drawn) <= set(range(count)) and {type(number) for number in drawn} == {int}


@given(count=counts, less=st.integers(1, 200), more=st.integers(0, 200), seed=seeds)
def test_a_smaller_draw_begins_a_larger_one(count, less, more, seed):
    drawn = draw(count, less, seed)
    assert draw(count, less + more, seed)[: len(drawn)] == drawn


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_all_of_them_come_in_order_whatever_the_seed(seed):
    assert draw(9, None, seed) == list(range(9))


def test_drawing_leaves_numpys_global_generator_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    draw(100, 10, 0)
    assert np.random.get_state()[1].tolist() == before


def test_another_seed_draws_others():
    assert draw(1000, 100, 0) != draw(1000, 100, 1)
