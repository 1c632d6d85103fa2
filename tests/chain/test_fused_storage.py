"""What a chain of queries and keys holds: the matrix where it fits in memory, and never copies of what heads share."""

import pytest
import torch

from attention_chains.chain import AttentionChain, fused

Q = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0))  # matrices of 2 * 4 * 6 * 6 * 4 = 1152 bytes


@pytest.mark.parametrize(("memory", "storage"), [(8 * 1152, "dense"), (8 * 1152 - 1, "fused")])
def test_auto_keeps_the_matrix_where_it_takes_up_to_an_eighth_of_the_memory(memory, storage, monkeypatch):
    monkeypatch.setattr(fused, "_memory", lambda device: memory)
    chain = AttentionChain.from_qk(Q, Q)
    assert chain.storage == storage
    assert f"storage={storage}" in repr(chain)
    assert AttentionChain.from_qk(Q, Q, storage="fused").storage == "fused"
    assert AttentionChain.from_qk(Q, Q, storage="dense").storage == "dense"


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < fused._memory(torch.device("cpu")) < 2**50


def test_a_machine_that_does_not_say_counts_as_a_small_one(monkeypatch):
    monkeypatch.delattr(fused.os, "sysconf_names")
    assert fused._memory(torch.device("cpu")) == 2**33


def test_chains_made_of_a_fused_chain_are_fused():
    chain = AttentionChain.from_qk(Q, Q, storage="fused")
    made = [chain.teleport(), chain.outgoing(), chain.lazy(), chain.drop(0), chain @ chain, chain.mix()]
    assert {each.storage for each in made} == {"fused"}


def test_grouped_keys_and_shared_masks_are_views():
    k = Q[:, :2]
    for mask in (torch.ones(2, 1, 1, 6), torch.ones(2, 1, 6, 6).expand(2, 4, 6, 6), torch.ones(1, 6).expand(6, 6)):
        operator = AttentionChain.from_qk(Q, k, mask=mask, storage="fused")._operator
        assert operator.q.data_ptr() == Q.data_ptr()
        assert operator.mask.data_ptr() == mask.data_ptr()
        assert operator.k.shape == (4, 6, 3)  # two heads of two images; copied here, as Q[:, :2] is not contiguous
        assert operator.select(1, 3).k.data_ptr() == operator.k.data_ptr()


def test_a_key_mask_is_never_a_matrix():
    mask = torch.ones(6, dtype=torch.bool).expand(2, 4, 6, 6)
    assert AttentionChain.from_qk(Q, Q, mask=mask, storage="fused")._operator.mask.numel() == 6


def test_an_empty_batch_gives_empty_results():
    chain = AttentionChain.from_qk(Q[:0], Q[:0], storage="fused")
    assert chain.bounce("uniform").shape == (0, 4, 6)
    assert chain.matrix().shape == (0, 4, 6, 6)
