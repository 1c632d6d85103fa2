"""Promise: a running mix is the mix of all chains at once, and holds one sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.chain import AttentionChain, ChainError, RunningMix


def random_heads(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).mul(3).softmax(-1)


@given(
    layers=st.integers(1, 4),
    heads=st.integers(1, 3),
    n=st.integers(2, 6),
    weights=st.sampled_from(["uniform", "lambda2"]),
)
def test_adding_layer_by_layer_is_mixing_all_heads_at_once(layers, heads, n, weights):
    matrices = random_heads(2, layers, heads, n, n, seed=layers)
    mean = RunningMix(weights)
    for layer in matrices.unbind(1):
        mean.add(AttentionChain(layer))
    together = AttentionChain(matrices.flatten(1, 2)).mix(weights)
    assert mean.count == layers * heads
    torch.testing.assert_close(mean.chain().matrix(), together.matrix())


def test_any_batch_dimension_can_be_averaged():
    matrices = random_heads(3, 2, 5, 5)
    mean = RunningMix()
    mean.add(AttentionChain(matrices), dim=0)
    torch.testing.assert_close(mean.chain().matrix(), matrices.mean(0))


def test_implicit_chains_are_averaged_as_their_matrices_are():
    chain = AttentionChain(random_heads(2, 3, 5, 5)).teleport(0.9).outgoing()
    mean = RunningMix()
    mean.add(chain)
    torch.testing.assert_close(mean.chain().matrix(), chain.matrix().mean(1))


def test_a_chain_given_out_is_not_changed_by_what_is_added_later():
    mean = RunningMix()
    mean.add(AttentionChain(random_heads(2, 5, 5)))
    chain, before = mean.chain(), mean.chain().matrix()
    mean.add(AttentionChain(random_heads(2, 5, 5, seed=1)))
    assert torch.equal(chain.matrix(), before)
    assert not torch.equal(mean.chain().matrix(), before)


def test_another_number_of_tokens_is_refused():
    mean = RunningMix()
    mean.add(AttentionChain(random_heads(2, 5, 5)))
    with pytest.raises(ChainError, match=r"cannot add chains of shape \(4, 4\) to a mean of \(5, 5\)"):
        mean.add(AttentionChain(random_heads(2, 4, 4)))


def test_an_empty_mean_says_so():
    with pytest.raises(ChainError, match="the mean is empty"):
        RunningMix().chain()


def test_heads_that_weigh_nothing_are_refused():
    mean = RunningMix("lambda2")
    mean.add(AttentionChain(torch.full((2, 4, 4), 0.25)))
    with pytest.raises(ChainError, match="lambda2 = 0"):
        mean.chain()


def test_unknown_weights_are_refused():
    with pytest.raises(ChainError, match="uniform"):
        RunningMix("lambda")


def test_the_batch_element_without_any_weight_is_named():
    mean = RunningMix("lambda2")
    mean.add(AttentionChain(torch.stack([torch.eye(3).roll(1, 0), torch.full((3, 3), 1 / 3)])[:, None]))
    with pytest.raises(ChainError, match=r"every chain added to batch element \(1,\) has lambda2 = 0"):
        mean.chain()
