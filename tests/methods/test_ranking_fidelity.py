"""Every ranking of patches is what the paper says, written out in matrix algebra (protocols 0.2, 4.2, 4.3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from attention_chains import methods
from attention_chains.capture import Call, CaptureError
from attention_chains.models import patch_attention
from attention_chains.models.patch_attention import PatchAttention

GRID, PATCHES = (4, 4), 16
FIVE_STATES = [  # protocol 0.4, Fig. 2
    [0.05, 0.05, 0.05, 0.80, 0.05],
    [0.60, 0.10, 0.10, 0.10, 0.10],
    [0.60, 0.10, 0.10, 0.10, 0.10],
    [0.05, 0.05, 0.05, 0.05, 0.80],
    [0.50, 0.05, 0.05, 0.05, 0.35],
]


def rank(name, attention, seeds=None, **keys):
    return methods.bind(name, keys, kind="ranking")(attention, seeds or list(range(len(attention.logits))))


@pytest.fixture(params=[0, 3], ids=["no registers", "3 registers"])
def attention(request):
    tokens = 1 + request.param + PATCHES
    draw = torch.Generator().manual_seed(0)
    return PatchAttention(3 * torch.randn(2, 5, tokens, tokens, generator=draw).double(), request.param, GRID)


@pytest.fixture
def chains(attention):
    """CLS cut from the softmax and rows normalised: (2, 5, T - 1, T - 1)."""
    powers = attention.logits.exp()
    kept = (powers / powers.sum(-1, keepdim=True))[..., 1:, 1:]
    return kept / kept.sum(-1, keepdim=True)


@pytest.fixture
def five_states():
    """The chain of protocol 0.4 over one register and four patches, behind a CLS token that takes most attention."""
    logits = torch.full((1, 1, 6, 6), 9.0, dtype=torch.float64)
    logits[0, 0, 1:, 1:] = torch.tensor(FIVE_STATES, dtype=torch.float64).log()
    return PatchAttention(logits, 1, (2, 2))


@pytest.mark.parametrize(
    ("keys", "expected", "within"),
    [
        ({"power": 20}, [0.05556, 0.05556, 0.25952, 0.35742], 5e-6),
        ({"alpha": 1.0}, [0.0556, 0.0556, 0.2595, 0.3574], 6e-5),
        ({}, [0.0572, 0.0572, 0.2590, 0.3549], 6e-5),
    ],
    ids=str,
)
def test_tokenrank_has_the_values_of_protocol_0_4(five_states, keys, expected, within):
    assert rank("tokenrank", five_states, **keys)[0, 0].tolist() == pytest.approx(expected, abs=within)


@pytest.mark.parametrize("power", [1, 2, 7, 20])
def test_tokenrank_by_power_is_the_mean_row_of_the_matrix_power(attention, chains, power):
    expected = torch.linalg.matrix_power(chains, power).mean(-2)[..., -PATCHES:]
    torch.testing.assert_close(rank("tokenrank", attention, power=power), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("alpha", [0.5, 0.99])
def test_converged_tokenrank_is_the_stationary_vector(attention, chains, alpha):
    surfer = alpha * chains + (1 - alpha) / chains.shape[-1]
    expected = torch.linalg.matrix_power(surfer, 5000)[..., 0, -PATCHES:]
    torch.testing.assert_close(rank("tokenrank", attention, alpha=alpha), expected, atol=1e-5, rtol=0)


def test_the_power_is_taken_without_teleport(attention):
    assert torch.equal(rank("tokenrank", attention, power=3, alpha=0.5), rank("tokenrank", attention, power=3))


def test_columns_and_rows(attention, chains):
    center, n = attention.registers + 10, chains.shape[-1]  # 16 // 2 + 4 // 2
    expected = {
        "column_sum": chains.sum(-2) / n,
        "center_row": chains[..., center, :],
        "center_column": chains[..., :, center],
        "cls": attention.logits.softmax(-1)[..., 0, :],
    }
    for name, scores in expected.items():
        torch.testing.assert_close(rank(name, attention), scores[..., -PATCHES:], atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize(
    ("grid", "center"), [((30, 30), 465), ((14, 14), 105), ((3, 3), 4), ((7, 7), 24), ((4, 6), 15)]
)
def test_the_centre_is_the_official_index(grid, center):
    assert PatchAttention(torch.zeros(1, 1, 1, 1), 0, grid).center == center


def test_column_sum_is_one_bounce_of_tokenrank(attention):
    assert torch.equal(rank("column_sum", attention), rank("tokenrank", attention, power=1))


def test_bounces_are_those_of_the_chain_however_the_heads_are_cut_into_pieces(attention, monkeypatch):
    expected = attention.chain.bounce("uniform", 20)
    for entries in (1, 2 * expected.shape[-1] ** 2, 2**30):
        monkeypatch.setitem(patch_attention.PIECE, "cpu", entries)
        torch.testing.assert_close(attention.bounced(20), expected, atol=1e-14, rtol=0)


def test_patches_that_the_model_masks_have_no_rank(attention):
    masked = attention.logits.clone()
    masked[..., -2] = -torch.inf
    for name, keys in (("tokenrank", {"power": 20}), ("column_sum", {}), ("center_row", {}), ("cls", {})):
        scores = rank(name, PatchAttention(masked, attention.registers, GRID), **keys)
        assert (scores[..., -2] == 0).all() and (scores[..., -1] > 0).all()


def test_a_random_order_is_a_permutation_for_each_head_and_image_drawn_from_the_images_seed(attention):
    order = rank("random", attention, [7, 8])
    assert torch.equal(order.sort(-1).values, torch.arange(16.0).double().expand(2, 5, 16))
    assert len(order.flatten(0, 1).unique(dim=0)) == 10
    assert torch.equal(rank("random", attention, [8, 7]), order.flip(0))
    assert torch.equal(rank("random", attention, [7, 7])[1], order[0])


def test_every_patch_is_as_likely_to_come_first():
    attention = PatchAttention(torch.zeros(1000, 5, 17, 17), 0, GRID)
    first = rank("random", attention).argmax(-1).flatten()
    assert chisquare(np.bincount(first, minlength=PATCHES)).pvalue > 1e-3


def test_a_random_row_is_the_row_of_one_patch_for_all_heads_drawn_from_the_images_seed(attention, chains):
    rows = chains[..., -PATCHES:, -PATCHES:]  # of the patches
    drawn = set()
    for seed in range(60):
        found = rank("random_row", attention, [seed, 1000 + seed])
        same = (found.unsqueeze(-2) - rows).abs().amax(-1).amax(1) < 1e-12  # (2, patches)
        assert same.sum(-1).tolist() == [1, 1]
        drawn.update(same.int().argmax(-1).tolist())
    assert len(drawn) == PATCHES


def test_every_ranking_scores_every_patch_of_every_head(attention):
    for name in methods.names("ranking"):
        scores = rank(name, attention)
        assert scores.shape == (2, 5, PATCHES) and scores.isfinite().all() and (scores >= 0).all(), name


def test_an_image_is_ranked_alike_alone_and_in_a_batch(attention):
    for name in methods.names("ranking"):
        together = rank(name, attention, [3, 4])
        alone = rank(name, PatchAttention(attention.logits[1:], attention.registers, GRID), [4])
        torch.testing.assert_close(alone[0], together[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("tokens", "registers"), [(17, 1), (16, 0), (18, 0)])
def test_attention_over_other_tokens_is_refused(tokens, registers):
    call = Call("blocks.0.attn", *torch.randn(3, 1, 2, tokens, 4), scale=0.5)
    with pytest.raises(CaptureError, match=r"'blocks.0.attn' attends from .* 4 x 4 patches are"):
        PatchAttention.from_call(call, registers, GRID)


def test_a_call_is_read_in_single_precision_whatever_the_model_runs_in():
    q, k, v = torch.randn(3, 1, 2, 17, 4).bfloat16()
    attention = PatchAttention.from_call(Call("a", q, k, v, 0.5), 0, GRID)
    assert attention.logits.dtype == torch.float32
    torch.testing.assert_close(attention.full, (0.5 * q.float() @ k.float().mT).softmax(-1))
