"""Shares of the masked tokens add up, never exceed a head's patches, and follow the heads' weights."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.models.patch_attention import PatchAttention
from attention_chains.tasks.head_budget import head_weights, split

WEIGHTS = st.lists(st.floats(0, 1) | st.integers(0, 3).map(float), min_size=1, max_size=16)


def shares(total, weights, most):
    return split(torch.tensor([total]), torch.tensor([weights], dtype=torch.float64), most)[0].tolist()


@given(WEIGHTS, st.integers(1, 300), st.data())
def test_shares_add_up_to_the_total_and_no_head_has_more_than_its_patches(weights, most, data):
    total = data.draw(st.integers(0, most * len(weights)))
    found = shares(total, weights, most)
    assert sum(found) == total and all(0 <= share <= most for share in found)


@given(WEIGHTS, st.integers(1, 300), st.data())
def test_a_heavier_head_masks_no_less(weights, most, data):
    found = shares(data.draw(st.integers(0, most * len(weights))), weights, most)
    counted = [max(weight / max(weights), 1e-9) if max(weights) else 1 for weight in weights]  # less counts as nothing
    for one, other in zip(counted, found, strict=True):
        assert all(other >= found[j] for j, weight in enumerate(counted) if weight < one)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.integers(1, 300), st.data())
def test_shares_are_those_of_exact_arithmetic(weights, most, data):
    """Filled head by head and rounded by largest remainders, in fractions of whole numbers."""
    total = data.draw(st.integers(0, most * len(weights)))
    full, free = set(), set(range(len(weights)))
    while True:
        rest = total - most * len(full)
        quota = {h: Fraction(rest * weights[h], sum(weights[i] for i in free)) for h in free}
        over = {h for h in free if quota[h] > most}
        if not over:
            break
        full |= over
        free -= over
    expected = {h: most for h in full} | {h: floor(quota[h]) for h in free}
    for head in sorted(free, key=lambda h: (expected[h] - quota[h], h))[: total - sum(expected.values())]:
        expected[head] += 1
    assert shares(total, weights, most) == [expected[h] for h in range(len(weights))]


def test_equal_weights_differ_by_one_token_at_most_the_first_heads_first():
    assert shares(10, [0.3] * 4, 16) == [3, 3, 2, 2]


def test_what_a_full_head_cannot_take_goes_to_the_others_in_proportion():
    assert shares(20, [8.0, 1.0, 1.0], 10) == [10, 5, 5]
    assert shares(24, [80.0, 10.0, 6.0, 4.0], 10) == [10, 7, 4, 3]


def test_heads_without_weight_get_only_what_no_other_can_take():
    assert shares(8, [1.0, 0.0, 1.0], 4) == [4, 0, 4]
    assert shares(10, [1.0, 0.0, 1.0], 4) == [4, 2, 4]
    assert shares(6, [0.0, 0.0, 0.0], 4) == [2, 2, 2]


def test_totals_and_images_are_split_side_by_side():
    total, weights = torch.tensor([[0], [9], [20]]), torch.rand(1, 5, 4, dtype=torch.float64)
    together = split(total, weights, 8)
    assert together.shape == (3, 5, 4)
    for i in range(3):
        for j in range(5):
            assert together[i, j].tolist() == shares(total[i].item(), weights[0, j].tolist(), 8)


@pytest.mark.parametrize("budget", ["uniform", "random", "lambda2"])
def test_weights_of_an_image_are_its_own_whatever_batch_it_is_in(budget):
    logits = torch.randn(3, 4, 11, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = head_weights(budget, PatchAttention(logits, 1, (3, 3)), 5)
    alone = head_weights(budget, PatchAttention(logits[1:2], 1, (3, 3)), 5)
    torch.testing.assert_close(alone[0].double(), together[1].double(), atol=1e-6, rtol=0)
    if budget == "random":
        other = head_weights(budget, PatchAttention(logits, 1, (3, 3)), 6)
        assert torch.equal(together[0], together[2]) and not torch.equal(together[0], other[0])


def test_lambda2_weights_are_of_the_chain_without_cls_and_with_its_registers():
    logits = torch.randn(2, 3, 11, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moduli = torch.linalg.eigvals(logits[..., 1:, 1:].softmax(-1)).abs().sort(-1).values[..., -2]
    found = head_weights("lambda2", PatchAttention(logits, 1, (3, 3)), 0)
    torch.testing.assert_close(found.double(), moduli, atol=1e-6, rtol=1e-4)
