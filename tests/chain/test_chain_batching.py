"""Starts and chains of any batch dimensions meet as broadcasting says, and every answer has the batch's shape."""

import pytest
import torch

from attention_chains.chain import AttentionChain


def test_answers_have_the_batch_shape(heads):
    assert heads.tokenrank().shape == (2, 3, 7)
    assert heads.lambda2().shape == (2, 3)
    assert heads.bounce(4, n=2).shape == (2, 3, 7)
    assert heads.bounces("uniform", n=4).shape == (5, 2, 3, 7)
    assert heads.mix().batch_shape == (2,)
    assert heads.mix(dim=0).batch_shape == (3,)
    assert heads.mix().mix().batch_shape == ()
    assert heads.drop([0, 6]).matrix().shape == (2, 3, 5, 5)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_index_for_each_chain_starts_each_chain_there(heads, n):
    index = torch.tensor([[0, 1, 2], [6, 5, 4]])
    state = heads.bounce(index, n)
    for image in range(2):
        for head in range(3):
            expected = torch.linalg.matrix_power(heads.matrix()[image, head], n)[index[image, head]]
            torch.testing.assert_close(state[image, head], expected)


@pytest.mark.parametrize("index", [4, torch.tensor(4), torch.tensor([4], dtype=torch.int32), torch.tensor([[4], [4]])])
def test_every_way_to_write_one_index_is_the_same(heads, index):
    torch.testing.assert_close(heads.bounce(index, 2), torch.linalg.matrix_power(heads.matrix(), 2)[:, :, 4])


def test_a_start_may_have_more_dimensions_than_the_chain(heads):
    every_token = torch.eye(7, dtype=torch.float64)[:, None, None]  # (7, 1, 1, 7)
    for chain in (heads, heads.teleport(0.9), heads.outgoing()):
        state = chain.bounce(every_token)
        assert state.shape == (7, 2, 3, 7)
        torch.testing.assert_close(state.movedim(0, -2), chain.matrix())


def test_a_single_chain_takes_many_starts(fig2):
    torch.testing.assert_close(fig2.bounce(torch.arange(5)), fig2.matrix())
    torch.testing.assert_close(fig2.outgoing().bounce(torch.arange(5).view(5, 1)), fig2.outgoing().matrix()[:, None])


def test_teleport_targets_may_differ_by_chain(heads):
    target = torch.eye(7, dtype=torch.float64)[:3]  # one for each head
    teleported = heads.teleport(0.75, target)
    torch.testing.assert_close(teleported.matrix(), 0.75 * heads.matrix() + 0.25 * target[:, None])
    torch.testing.assert_close(teleported.tokenrank(1e-10), teleported.lazy(0).tokenrank(1e-10))


def test_chaining_broadcasts(heads):
    shared = heads.mix(dim=0)  # (3,)
    chained = heads @ shared
    assert chained.batch_shape == (2, 3)
    torch.testing.assert_close(chained.matrix(), heads.matrix() @ shared.matrix())
    torch.testing.assert_close(chained.bounce(2), shared.bounce(heads.bounce(2)))
    torch.testing.assert_close(chained.outgoing().bounce(2), chained.outgoing().matrix()[:, :, 2])


@pytest.mark.parametrize("n", [4, 100, 450])
def test_an_empty_batch_is_no_special_case(n):
    chain = AttentionChain(torch.empty(0, n, n))
    assert chain.bounce("uniform", 2).shape == (0, n)
    assert chain.teleport().tokenrank().shape == (0, n)
    assert chain.lambda2().shape == (0,)


def test_two_factors_of_different_types_chain_in_the_wider_one(heads):
    narrow = AttentionChain(heads.matrix().float())
    assert (narrow @ heads).dtype == torch.float64
    torch.testing.assert_close((narrow @ heads).bounce(0), heads.bounce(0, 2), rtol=0, atol=1e-7)
