"""Segments are measured as the grouping into foreground and background that fits the mask best."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attention_chains.metrics import MetricError
from attention_chains.metrics.segmentation import FIELDS, measure
from attention_chains.metrics.segments import measure_segments

MAPS = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(arrays(np.int64, shape, elements=st.integers(0, 4)), arrays(np.bool_, shape))
)


def right(stats):
    return stats["tp"] + stats["tn"]


@given(MAPS)
def test_no_grouping_into_two_has_more_right_pixels(maps):
    segments, mask = maps
    found = measure_segments(segments, mask, mask.shape)
    groupings = [np.isin(segments, [kind for kind in range(5) if chosen[kind]]) for chosen in product((0, 1), repeat=5)]
    best = max((grouping == mask).sum() for grouping in groupings)
    assert tuple(found) == FIELDS and right(found) == best
    assert found["tp"] + found["fn"] == mask.sum() and found["tn"] + found["fp"] == (~mask).sum()


@given(MAPS)
def test_the_statistics_are_those_of_a_map_of_zeros_and_ones(maps):
    segments, mask = maps
    inside = {kind: mask[segments == kind].mean() for kind in np.unique(segments)}
    chosen = np.vectorize(lambda kind: inside[kind] > 0.5)(segments)
    found = measure_segments(segments, mask, mask.shape)
    if len(np.unique(chosen)) == 2:  # a constant map counts as empty there
        assert found == pytest.approx(measure(chosen.astype(np.float64), mask, "ca", mask.shape))
    else:
        assert (found["fp"], found["tp"]) == ((~mask).sum() * chosen.all(), mask.sum() * chosen.all())


def test_one_segment_over_an_object_that_fills_most_of_the_image_is_foreground():
    mask = np.ones((4, 4), bool)
    mask[0] = False
    found = measure_segments(np.zeros((4, 4), np.int64), mask, 4)
    assert {name: found[name] for name in ("tn", "fp", "fn", "tp")} == {"tn": 0, "fp": 4, "fn": 0, "tp": 12}


def test_a_segment_that_lies_half_in_the_mask_is_background():
    found = measure_segments(np.zeros((1, 2), np.int64), np.array([[True, False]]), (1, 2))
    assert (found["fn"], found["tn"], found["tp"]) == (1, 1, 0)


def test_segments_and_mask_are_compared_at_the_size_asked_for():
    segments, mask = np.kron([[0, 1], [2, 1]], np.ones((8, 8))).astype(int), np.zeros((32, 32), bool)
    mask[:, 16:] = True
    found = measure_segments(torch.from_numpy(segments), mask, 4)
    assert found == {"tn": 8, "fp": 0, "fn": 0, "tp": 8, "ap": 1.0, "fg_ap": 1.0}


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.full((2, 2), -1), np.zeros(4, int), np.zeros((0, 2), int)])
def test_what_is_no_map_of_segments_is_refused(bad):
    with pytest.raises(MetricError, match=r"Segments have shape .* pass one map \(H, W\) of integers from 0"):
        measure_segments(bad, np.ones((2, 2), bool), 2)
