"""Queries, keys and masks that give no chain are refused with one sentence that says what, where, and what to do."""

import re

import numpy as np
import pytest
import torch

from attention_chains.chain import AttentionChain, ChainError

Q = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
STORAGES = pytest.mark.parametrize("storage", ["fused", "dense"])


def spoiled(value, at):
    q = Q.clone()
    q[at] = value
    return q


@STORAGES
@pytest.mark.parametrize(
    ("q", "k", "sentence"),
    [
        (np.eye(3), Q, r"q must be a tensor of .*, got ndarray"),
        (Q, Q.long(), r"k must be a tensor of .*, got a tensor of torch.int64"),
        (Q, torch.ones(3), r"k must have shape \(..., n, d\) .*, got \(3,\)"),
        (Q[..., :0, :], Q[..., :0, :], r"q must have shape .* n and d of at least 1, got \(2, 4, 0, 3\)"),
        (Q, Q[..., :4, :], r"q has 5 tokens and k 4, .*: pass the scores of cross-attention to \S+from_cross"),
        (Q, Q[..., :2], r"q has 3 features and k 2: they must be equally many"),
        (Q, Q[:, :3], r"q has batch dimensions \(2, 4\) and k \(2, 3\): .* heads of k may divide those of q"),
        (Q, Q[0], r"q has batch dimensions \(2, 4\) and k \(4,\)"),
        (Q, Q[:1], r"q has batch dimensions \(2, 4\) and k \(1, 4\)"),
        (Q, Q[:, :0], r"q has batch dimensions \(2, 4\) and k \(2, 0\)"),
        (Q, Q.to("meta"), r"q is on cpu and k on meta: move both to one device"),
        (spoiled(torch.nan, (1, 2, 3, 0)), Q, r"logits of row 3 of batch element \(1, 2\) are not finite: .*NaN"),
        (spoiled(torch.inf, (0, 3, 1)), Q.abs(), r"logits of row 1 of batch element \(0, 3\) are not finite"),
    ],
)
def test_queries_and_keys(q, k, sentence, storage):
    with pytest.raises(ChainError, match=sentence):
        AttentionChain.from_qk(q, k, storage=storage)


@STORAGES
@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ([True] * 5, r"mask must be a boolean tensor \(True: may attend\) or one of floats .*, got list"),
        (torch.ones(5, dtype=torch.long), r"mask must be .*, got a tensor of torch.int64"),
        (torch.ones(4, dtype=torch.bool), r"mask has shape \(4,\), which does not broadcast to \(2, 4, 5, 5\)"),
        (torch.ones(3, 1, 1, 5), r"mask has shape \(3, 1, 1, 5\), which does not broadcast"),
        (torch.ones(1, 2, 4, 5, 5), r"mask has shape \(1, 2, 4, 5, 5\), which does not broadcast"),
        (torch.ones(5, device="meta"), r"mask is on meta and q on cpu: move both to one device"),
        (torch.full((5,), torch.nan), r"logits of row 0 of batch element \(0, 0\) are not finite"),
    ],
)
def test_masks(mask, sentence, storage):
    with pytest.raises(ChainError, match=sentence):
        AttentionChain.from_qk(Q, Q, mask=mask, storage=storage)


@STORAGES
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_row_with_every_key_masked_is_named(storage, additive, causal):
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, 0, 3, : 4 if causal else 5] = False
    mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if additive else mask
    with pytest.raises(ChainError, match=r"mask leaves row 3 of batch element \(1, 0\) no key to attend to: leave it"):
        AttentionChain.from_qk(Q, Q, mask=mask, causal=causal, storage=storage)


def test_a_row_that_dropped_tokens_leave_nothing_is_named_as_it_was():
    chain = AttentionChain.from_qk(Q, Q, causal=True, mask=torch.tensor([1, 0, 0, 1, 1]).bool(), storage="fused")
    with pytest.raises(ChainError, match=r"row 1 of batch element \(0, 0\) goes to dropped tokens only: drop it too"):
        chain.drop(0)
    with pytest.raises(ChainError, match=r"row 2 of batch element \(0,\) goes to dropped tokens only: drop it too"):
        chain.mix().drop([0, 1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scale": torch.inf}, r"scale must be a finite number, got inf"),
        ({"scale": "large"}, r"scale must be a finite number, got 'large'"),
        ({"storage": "disk"}, r'storage must be "auto", "dense" or "fused", got \'disk\''),
    ],
)
def test_settings(settings, sentence):
    with pytest.raises(ChainError, match=sentence) as refused:
        AttentionChain.from_qk(Q, Q, **settings)
    assert not re.search(r"\n", str(refused.value))
