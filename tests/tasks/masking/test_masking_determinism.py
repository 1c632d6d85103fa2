"""A masked image gives the same answer whatever batch it is in, and whatever is masked beside it."""

from __future__ import annotations

import pytest
import torch
from masked_models import DEPTH, FRACTIONS, GRID, timm_vision

from attention_chains import methods
from attention_chains.tasks import masked_pass
from attention_chains.tasks.masked_pass import Batch, Strategy, masked_logits

IDS = ["a", "b", "c"]
STRATEGIES = [("tokenrank", {"power": 20}, None), ("tokenrank", {}, None), ("random", {}, None)]
STRATEGIES += [
    ("random_row", {}, "random"),
    ("column_sum", {}, "random"),
    ("cls", {}, "lambda2"),
    ("center_column", {}, None),
]


@pytest.fixture(scope="module")
def vision():
    return timm_vision(registers=2)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def masked(vision, batch, name, keys, budget, fractions=FRACTIONS):
    strategy = Strategy(methods.bind(name, keys, kind="ranking"), vision.blocks[: DEPTH // 2], budget)
    return masked_logits(vision, batch, strategy, fractions)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_batch_gives_what_a_loop_gives(vision, pixels, strategy):
    together = masked(vision, Batch(pixels, IDS, 4), *strategy)
    for image in range(3):
        for step, fraction in list(enumerate(FRACTIONS))[image::3]:  # each fraction once, of one of the images
            alone = masked(vision, Batch(pixels[image, None], IDS[image : image + 1], 4), *strategy, [fraction])
            torch.testing.assert_close(alone[0, 0], together[step, image], atol=1e-6, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("rows", [1, 3 * 4, 3 * 20])
def test_the_number_of_fractions_in_a_pass_changes_nothing(vision, pixels, strategy, rows, monkeypatch):
    whole = masked(vision, Batch(pixels, IDS), *strategy)
    tokens = 1 + 2 + GRID[0] * GRID[1]
    monkeypatch.setitem(masked_pass.ROWS, "cpu", rows * tokens**2)
    torch.testing.assert_close(masked(vision, Batch(pixels, IDS), *strategy), whole, atol=1e-6, rtol=0)


def test_a_pass_holds_no_more_rows_than_memory_allows_but_all_images_of_one_fraction(vision, pixels, monkeypatch):
    sizes = []
    monkeypatch.setattr(vision, "classify", lambda x: (sizes.append(len(x)), vision.network(x))[1])
    for rows in (2, 3, 7, 60, 200):
        monkeypatch.setitem(masked_pass.ROWS, "cpu", rows * 19**2)
        masked(vision, Batch(pixels, IDS), *STRATEGIES[0])
        expected = max(1, rows // 3) * 3
        assert sum(sizes) == 63 and max(sizes) == min(63, expected)
        sizes.clear()


def test_the_same_images_give_the_same_bits(vision, pixels):
    for strategy in STRATEGIES:
        first, again = (masked(vision, Batch(pixels, IDS), *strategy) for _ in range(2))
        assert torch.equal(first, again)


def test_strategies_that_share_a_batch_give_the_same_bits_as_alone(vision, pixels):
    shared = Batch(pixels, IDS)
    for strategy in STRATEGIES:
        assert torch.equal(masked(vision, shared, *strategy), masked(vision, Batch(pixels, IDS), *strategy))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_seed_changes_all_that_is_drawn_and_the_id_the_order_alone(vision, pixels, strategy):
    name, _, budget = strategy
    draws = [(IDS, 0), (IDS, 1), (["d", "e", "f"], 0)]
    first, reseeded, renamed = (masked(vision, Batch(pixels, ids, seed), *strategy) for ids, seed in draws)
    assert torch.equal(first, reseeded) == ("random" not in name and budget != "random")
    assert torch.equal(first, renamed) == ("random" not in name)
