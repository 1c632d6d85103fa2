"""What methods are handed: chains by stream, their mean over the heads once, and maps laid out row by row."""

from __future__ import annotations

import pytest
import torch

from attention_chains.chain import AttentionChain
from attention_chains.models.joint_attention import JointAttention

TEXT, GRID = 3, (2, 4)


@pytest.fixture
def attention():
    scores = torch.randn(2, 2, 5, 11, 11, generator=torch.Generator().manual_seed(0))
    return JointAttention(
        {name: AttentionChain.from_scores(each) for name, each in zip(("dual", "single"), scores, strict=True)},
        TEXT,
        GRID,
    )


def test_the_mean_of_the_heads_is_uniform_or_weighted_by_lambda2(attention):
    for stream in attention.streams:
        heads = attention.heads(stream).matrix()
        torch.testing.assert_close(attention.mean("uniform", stream).matrix(), heads.mean(1))
        moduli = torch.linalg.eigvals(heads.double()).abs().sort(-1).values[..., -2]  # (B, H)
        shares = (moduli / moduli.sum(1, keepdim=True)).float()
        expected = (shares[..., None, None] * heads).sum(1)
        torch.testing.assert_close(attention.mean("lambda2", stream).matrix(), expected, atol=1e-6, rtol=1e-4)


def test_a_mean_is_computed_once_for_all_methods_that_need_it(attention):
    assert attention.mean("lambda2", "dual") is attention.mean("lambda2", "dual")
    assert attention.mean("lambda2", "single") is not attention.mean("lambda2", "dual")


def test_a_map_is_the_image_part_row_by_row(attention):
    state = torch.arange(22.0).view(2, 11)
    assert attention.image_map(state)[1].tolist() == [[14, 15, 16, 17], [18, 19, 20, 21]]
