"""What is easily overlooked: large logits, overflow, empty dimensions, inference mode, shared memory, wrong types."""

from __future__ import annotations

import pytest
import torch

from attention_chains.chain import AttentionChain, ChainError, RunningMix
from attention_chains.chain.rectangular import queries_and_keys

HEADS = torch.full((3, 4, 4), 0.25)


@pytest.mark.parametrize("lowest", [-1e4, -65504.0])
def test_a_finite_mask_costs_a_fused_chain_no_mass(lowest):
    q, k = torch.randn(2, 100, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(100, 100)
    mask[:, 80:], mask[90:] = lowest, lowest
    chain = AttentionChain.from_qk(q, k, mask=mask, storage="fused")
    assert chain.bounce("uniform", 50).sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("offset", [0, 100, 300])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_the_bound_holds_for_fused_chains_with_large_logits(offset, tol):
    generator = torch.Generator().manual_seed(1)
    group = torch.randint(0, 4, (400,), generator=generator)
    centre = 2.2 * torch.randn(4, 8, generator=generator)
    q, k = (centre[group] + 0.3 * torch.randn(400, 8, generator=generator) for _ in range(2))
    q[:, 0], k[:, 0] = offset, offset  # logits of offset squared, on all keys alike
    exact = AttentionChain.from_qk(q.double(), k.double(), scale=1.0, storage="dense").teleport().tokenrank(1e-12)
    chain = AttentionChain.from_qk(q, k, scale=1.0, storage="fused").teleport()
    rank, info = chain.tokenrank(tol, return_info=True)
    assert (rank - exact).abs().sum() <= info.bound


def test_weights_whose_sum_overflows_are_weights_all_the_same():
    chain = AttentionChain(torch.stack([torch.eye(4), torch.full((4, 4), 0.25)]))
    assert torch.equal(chain.mix(torch.full((2,), 3e38)).matrix(), chain.mix().matrix())


def test_nothing_to_mix_is_refused():
    with pytest.raises(ChainError, match="no chains to mix"):
        AttentionChain(torch.zeros(0, 5, 5)).mix()


def test_a_running_mix_begun_under_inference_mode_goes_on_outside():
    mean = RunningMix()
    with torch.inference_mode():
        mean.add(AttentionChain(HEADS))
    mean.add(AttentionChain(HEADS))
    assert torch.allclose(mean.chain().matrix(), HEADS[0])


def test_states_share_no_memory_even_without_a_bounce():
    state = AttentionChain(HEADS).bounce(2, n=0)
    state[0, 0] = 9
    assert (state[1:, 0] == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AttentionChain(HEADS).mix(dim="a"),
        lambda: AttentionChain(HEADS).mix(dim=True),
        lambda: AttentionChain(HEADS).mix(torch.ones(3, dtype=torch.complex64)),
        lambda: AttentionChain(HEADS).teleport(True),
        lambda: AttentionChain(HEADS).tokenrank(tol=True),
        lambda: AttentionChain(HEADS).tokenrank(method="power"),
        lambda: AttentionChain(torch.eye(3).to_sparse()),
        lambda: AttentionChain.from_qk(torch.ones(4, 2), torch.ones(4, 2), causal="no"),
        lambda: RunningMix().add(HEADS),
        lambda: RunningMix().add(None),
        lambda: queries_and_keys(None, 2),
        lambda: queries_and_keys(torch.ones(4), 1.5),
    ],
)
def test_what_is_no_setting_is_refused_with_one_sentence(wrong):
    with pytest.raises(ChainError) as error:
        wrong()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("least", [1e-38, 1e-40, 1e-44])
def test_what_a_peaked_row_keeps_may_be_next_to_nothing(least):
    matrix = torch.tensor([[1, 0, 0], [1, least, least], [0.5, 0.5, 0]])
    kept = AttentionChain(matrix).drop(0)
    torch.testing.assert_close(kept.matrix(), torch.tensor([[0.5, 0.5], [1.0, 0]]))
    torch.testing.assert_close(kept.bounce(0), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("gap", [50.0, 95, 103])
def test_a_peaked_softmax_can_lose_its_peak(gap):
    scores = torch.tensor([[0.0, 0, 0], [gap, 0, 0], [gap, 1, 0]])
    for chain in (AttentionChain.from_scores(scores), AttentionChain.from_qk(scores, torch.eye(3), scale=1.0)):
        found = chain.drop(0).bounce(torch.tensor([0, 1]))
        assert found.isfinite().all()
        torch.testing.assert_close(found.sum(-1), torch.ones(2))


@pytest.mark.parametrize("n", [4, 600])
def test_iterations_of_no_chains_are_whole_numbers_too(n):
    rank, info = AttentionChain(torch.empty(0, n, n)).teleport(0.99).tokenrank(return_info=True)
    assert rank.shape == (0, n)
    assert info.iterations.dtype == torch.int64
