"""What cannot be measured is refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.segmentation import FIELDS, PROTOCOLS, measure, summarise

MASK = np.eye(8, dtype=bool)


def test_ca_refuses_a_map_with_nan():
    score = torch.rand(4, 4)
    score[0, 0] = torch.nan
    with pytest.raises(MetricError, match="holds NaN"):
        measure(score, MASK, "ca")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_infinite_scores_are_refused(protocol):
    with pytest.raises(MetricError, match="infinite"):
        measure(torch.tensor([[0.0, torch.inf]]), MASK, protocol)


@pytest.mark.parametrize("shape", [(1, 4, 4), (16,), (0, 4)])
def test_a_map_must_have_two_dimensions(shape):
    with pytest.raises(MetricError, match="score map has shape"):
        measure(torch.rand(shape), MASK)


@pytest.mark.parametrize("shape", [(1, 4, 4), (16,), (4, 0)])
def test_a_mask_must_have_two_dimensions(shape):
    with pytest.raises(MetricError, match="mask has shape"):
        measure(torch.rand(4, 4), np.ones(shape, dtype=bool))


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(MetricError, match="'teh': choose one of ca, te"):
        measure(torch.rand(4, 4), MASK, "teh")


def test_a_summary_needs_an_image():
    with pytest.raises(MetricError, match="at least one image"):
        summarise(np.zeros((2, len(FIELDS))), np.array([3, 0]))


def test_a_summary_needs_every_statistic():
    with pytest.raises(MetricError, match="tn, fp, fn, tp, ap, fg_ap"):
        summarise(np.zeros((2, 4)), 1)
