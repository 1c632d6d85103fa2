"""Masking inside the forward pass is the step list of protocol 4.2, written out slowly in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_models import DEPTH, FRACTIONS, HEADS, PATCHES, reference, softmax, timm_vision

from attention_chains import methods
from attention_chains.capture import Call, capture, mask_tokens
from attention_chains.tasks.masked_pass import Batch, Masker, Strategy, masked_logits
from attention_chains.tasks.seeds import noise_seed

IDS = ["first", "second"]
CENTER = 4 * 4 // 2 + 4 // 2


def strategy(vision, name, blocks=DEPTH // 2, budget=None, **keys):
    return Strategy(methods.bind(name, keys, kind="ranking"), vision.blocks[:blocks], budget)


def masked(vision, images, *args, ids=IDS, seed=0, fractions=FRACTIONS, **keys):
    return masked_logits(vision, Batch(images, ids, seed), strategy(vision, *args, **keys), fractions)


def cut(logits):
    return softmax(logits[1:, 1:])


def stationary(chain):
    values, vectors = np.linalg.eig((0.99 * chain + 0.01 / len(chain)).T)
    return (vectors[:, values.real.argmax()] / vectors[:, values.real.argmax()].sum()).real


WRITTEN_OUT = {
    "tokenrank, A^20": ("tokenrank", {"power": 20}, lambda L: np.linalg.matrix_power(cut(L), 20).mean(0)),
    "tokenrank, converged": ("tokenrank", {"alpha": 0.99}, lambda L: stationary(cut(L))),
    "column sum": ("column_sum", {}, lambda L: cut(L).sum(0)),
    "centre row": ("center_row", {}, lambda L: cut(L)[CENTER - PATCHES]),
    "centre column": ("center_column", {}, lambda L: cut(L)[:, CENTER - PATCHES]),
    "CLS row": ("cls", {}, lambda L: softmax(L)[0]),
}


def every_head(fraction):
    return lambda logits, block: [round(fraction * PATCHES)] * len(logits)


@pytest.mark.parametrize("ranking", WRITTEN_OUT)
def test_every_ranking_at_every_fraction_is_the_step_list_of_protocol_4_2(vision, images, ranking):
    name, keys, scores = WRITTEN_OUT[ranking]
    found = masked(vision, images, name, **keys)
    assert found.shape == (21, 2, 10) and found.dtype == torch.float32
    for step, fraction in enumerate(FRACTIONS):
        for image in range(2):
            expected = reference(
                vision, images[image], lambda L, *_: scores(L)[-PATCHES:], every_head(fraction), DEPTH // 2
            )
            np.testing.assert_allclose(found[step, image], expected, atol=2e-6, err_msg=f"{ranking} at {fraction}")


@pytest.mark.parametrize("blocks", range(DEPTH + 1))
def test_as_many_blocks_mask_as_are_asked_for_from_the_input_side(vision, images, blocks):
    found = masked(vision, images, "column_sum", blocks=blocks, fractions=[0.5])
    expected = reference(vision, images[0], lambda L, *_: cut(L).sum(0)[-PATCHES:], every_head(0.5), blocks)
    np.testing.assert_allclose(found[0, 0], expected, atol=2e-6)


def test_the_random_order_is_drawn_from_the_images_id_the_block_and_the_seed(vision, images):
    def order(_, block, head):
        generator = torch.Generator().manual_seed(noise_seed(3, f"second/{block}/order"))
        return torch.rand(HEADS, PATCHES, generator=generator, dtype=torch.float64).argsort(-1)[head].numpy()

    found = masked(vision, images, "random", seed=3)
    for step, fraction in enumerate(FRACTIONS):
        expected = reference(vision, images[1], order, every_head(fraction), DEPTH // 2)
        np.testing.assert_allclose(found[step, 1], expected, atol=2e-6)


def shared(weights, total):
    """Shares of a total by weights, none above PATCHES, by largest remainders: one head filled at a time."""
    full = {}
    while True:
        free = [head for head in range(len(weights)) if head not in full]
        left = total - sum(full.values())
        share = {head: left * weights[head] / sum(weights[other] for other in free) for head in free}
        if all(value <= PATCHES for value in share.values()):
            break
        full[max(free, key=lambda head: share[head])] = PATCHES
    counts = {**full, **{head: math.floor(value) for head, value in share.items()}}
    by_remainder = sorted(free, key=lambda head: (counts[head] - share[head], head))
    for head in by_remainder[: total - sum(counts.values())]:
        counts[head] += 1
    return [counts[head] for head in range(len(weights))]


def second_eigenvalue(logits):
    return np.sort(np.abs(np.linalg.eigvals(cut(logits))))[-2]


@pytest.mark.parametrize("budget", ["uniform", "random", "lambda2"])
def test_a_budget_is_shared_among_the_heads_in_proportion_to_their_weights(vision, images, budget):
    def counts(fraction):
        total = round(fraction * PATCHES * HEADS)

        def of(logits, block):
            generator = torch.Generator().manual_seed(noise_seed(0, f"{block}/heads"))
            drawn = torch.rand(HEADS, generator=generator).double().tolist()
            weights = {"uniform": [1.0] * HEADS, "random": drawn, "lambda2": [*map(second_eigenvalue, logits)]}
            return shared(weights[budget], total)

        return of

    found = masked(vision, images, "column_sum", budget=budget)
    for step, fraction in enumerate(FRACTIONS):
        expected = reference(vision, images[0], lambda L, *_: cut(L).sum(0)[-PATCHES:], counts(fraction), DEPTH // 2)
        np.testing.assert_allclose(found[step, 0], expected, atol=2e-6)


def test_a_budget_changes_the_answer(vision, images):
    answers = [masked(vision, images, "column_sum", budget=budget) for budget in (None, "random", "lambda2")]
    assert all((answers[0] - other)[3:-1].abs().amax() > 1e-3 for other in answers[1:])


def test_nothing_masked_is_the_plain_model(vision, images):
    found = masked(vision, images, "tokenrank", power=20, fractions=[0.0])
    torch.testing.assert_close(found[0], vision.logits(images), atol=1e-6, rtol=0)


METHODS = [(name, {"power": 20} if name == "tokenrank" else {}) for name in methods.names("ranking")]


@pytest.mark.parametrize(("name", "keys"), METHODS, ids=str)
@pytest.mark.parametrize("budget", [None, "random", "lambda2"])
def test_cls_and_registers_are_never_masked_and_heads_mask_what_they_are_to(vision, images, hidden, name, keys, budget):
    masked(vision, images, name, budget=budget, **keys)
    assert list(hidden) == vision.blocks[: DEPTH // 2]
    for mask in hidden.values():
        count = mask.sum(-1)
        assert not mask[..., : 1 + vision.registers].any()
        assert mask[-1, ..., 1 + vision.registers :].all()
        for step, fraction in enumerate(FRACTIONS):
            if budget is None:
                assert (count[step] == round(fraction * PATCHES)).all()
            else:
                assert (count[step].sum(-1) == round(fraction * PATCHES * HEADS)).all()


@pytest.mark.parametrize(("name", "keys"), METHODS, ids=str)
def test_masks_of_falling_fractions_are_nested(vision, images, hidden, name, keys):
    """Of a random order in every block; of any other in the first, for after it the logits differ."""
    masked(vision, images, name, **keys)
    for mask in list(hidden.values())[: None if name == "random" else 1]:
        assert not (mask[:-1] & ~mask[1:]).any()


def test_images_and_heads_have_orders_of_their_own(vision, images, hidden):
    for name, keys in METHODS:
        masked(vision, images, name, fractions=[0.5], **keys)
        for mask in hidden.values():
            assert len(mask.flatten(1, 2)[0].unique(dim=0)) > 2, name


def test_masking_equals_the_same_mask_given_to_the_attention_kernel(vision, images, hidden):
    for name, keys in METHODS:
        found = masked(vision, images, name, **keys)
        edits = {layer: mask_tokens(mask[9]) for layer, mask in hidden.items()}
        with capture(vision.network, list(edits), edit=lambda call, edits=edits: edits[call.layer](call)):
            expected = vision.logits(images)
        torch.testing.assert_close(found[9], expected, atol=1e-6, rtol=0)


def test_masked_tokens_get_no_attention_whatever_they_hold(vision, images, hidden):
    """Their values may be anything: CLS and all others, too, see nothing of them."""
    masker = Masker(vision, Batch(images, IDS), strategy(vision, "tokenrank", power=20))
    masker._fractions = [0.25, 0.75, 1.0]
    draw = torch.Generator().manual_seed(0)
    tokens = 1 + vision.registers + PATCHES
    q, k, v = torch.randn(3, 6, HEADS, tokens, 8, generator=draw, dtype=torch.float64)
    layer = vision.blocks[1]
    before = masker.edit(Call(layer, q, k, v, 0.5))
    after = masker.edit(Call(layer, q, k, v.masked_fill(hidden[layer].flatten(0, 1)[..., None], 1e30), 0.5))
    assert torch.equal(before, after)


def test_with_all_patches_masked_cls_sees_only_itself_and_the_registers(vision, images, hidden):
    masker = Masker(vision, Batch(images, IDS), strategy(vision, "column_sum"))
    masker._fractions = [1.0]
    special = 1 + vision.registers
    q, k, v = torch.randn(3, 2, HEADS, special + PATCHES, 8, dtype=torch.float64)
    found = masker.edit(Call(vision.blocks[1], q, k, v, 0.5))
    logits = 0.5 * q @ k[..., :special, :].mT
    torch.testing.assert_close(found, logits.softmax(-1) @ v[..., :special, :])


def test_in_single_precision_the_answer_is_that_of_double(images):
    double, single = timm_vision(registers=2), timm_vision(registers=2, dtype=torch.float32)
    for name, keys in METHODS:
        expected, found = (masked(each, images.to(next(each.network.parameters()).dtype), name, **keys)
                           for each in (double, single))  # fmt: skip
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_first_block_is_ranked_once_for_all_fractions_and_read_once_for_all_strategies(vision, images, monkeypatch):
    ranked, read = [], []
    logits = Call.logits
    monkeypatch.setattr(Call, "logits", lambda call: (read.append((call.layer, len(call.q))), logits(call))[1])

    def ranking(attention, seeds):
        ranked.append(len(seeds))
        return methods.bind("column_sum", {}, kind="ranking")(attention, seeds)

    batch = Batch(images, IDS)
    for _ in range(2):
        masked_logits(vision, batch, replace(strategy(vision, "column_sum"), ranking=ranking), FRACTIONS[1:])
    assert ranked == [2, 40, 2, 40]
    assert read == [(vision.blocks[0], 2), (vision.blocks[1], 40), (vision.blocks[1], 40)]
