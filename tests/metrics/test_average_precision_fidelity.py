"""Average precision equals scikit-learn's to 1e-12, ties included, and torchmetrics' to its own float32."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_average_precision

from attention_chains.metrics.average_precision import average_precision, two_sided_average_precision

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)


@st.composite
def scored_labels(draw):
    """Scores in [0, 1] from few distinct values (many ties) or many (few), and at least one positive label."""
    n = draw(st.integers(1, 60))
    steps = draw(st.sampled_from([1, 3, 10, 2**20]))
    scores = np.array(draw(st.lists(st.integers(0, steps), min_size=n, max_size=n))) / steps
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    labels[draw(st.integers(0, n - 1))] = True
    return scores, labels


@SETTINGS
@given(scored_labels())
def test_equals_scikit_learn_at_any_ties(case):
    scores, labels = case
    score, label = torch.tensor(scores), torch.tensor(labels)
    assert average_precision(score, label, ~label) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@SETTINGS
@given(scored_labels())
def test_two_sided_equals_scikit_learn_on_stacked_channels(case):
    scores, labels = case
    score, label = torch.tensor(scores), torch.tensor(labels)
    expected = average_precision_score(np.r_[~labels, labels], np.r_[1 - scores, scores])
    assert two_sided_average_precision(score, label, ~label) == pytest.approx(expected, abs=1e-12)


@SETTINGS
@given(scored_labels())
def test_equals_torchmetrics_in_float32(case):
    scores, labels = case
    score, label = torch.tensor(scores), torch.tensor(labels)
    expected = binary_average_precision(score, label.long()).item()
    assert average_precision(score, label, ~label) == pytest.approx(expected, abs=2e-6)


@SETTINGS
@given(scored_labels(), st.data())
def test_counts_equal_repeated_elements(case, data):
    scores, _ = case
    counts = st.lists(st.integers(0, 5), min_size=len(scores), max_size=len(scores))
    positives, negatives = torch.tensor(data.draw(counts)), torch.tensor(data.draw(counts))
    score = torch.tensor(scores)
    repeated = torch.cat([score.repeat_interleave(positives), score.repeat_interleave(negatives)])
    label = torch.arange(len(repeated)) < positives.sum()
    expected = average_precision(repeated, label, ~label) if len(repeated) else 0.0
    assert average_precision(score, positives, negatives) == pytest.approx(expected, abs=1e-12)


@SETTINGS
@given(scored_labels(), st.randoms(use_true_random=False))
def test_order_of_elements_does_not_matter(case, random):
    score, label = map(torch.tensor, case)
    order = list(range(len(score)))
    random.shuffle(order)
    assert average_precision(score, label, ~label) == average_precision(score[order], label[order], ~label[order])


def test_all_tied_scores_reach_the_share_of_positives():
    label = torch.tensor([True, False, False, True, False])
    assert average_precision(torch.full((5,), 0.3), label, ~label) == 0.4


def test_is_zero_without_a_positive_element_as_in_scikit_learn():
    score, label = torch.tensor([0.2, 0.7]), torch.tensor([False, False])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert average_precision(score, label, ~label) == average_precision_score(label, score) == 0.0
