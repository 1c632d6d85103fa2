"""The operators give the values of protocol 0.4 and of the paper's Fig. 2 (protocol 6)."""

import pytest
import torch

from attention_chains.chain import AttentionChain

FOUR_DIGITS = 5.1e-5  # the vectors are printed with four decimals


def close(measured, printed, atol=FOUR_DIGITS):
    torch.testing.assert_close(measured, torch.tensor(printed, dtype=measured.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("alpha", "printed"),
    [(1, [0.2720, 0.0556, 0.0556, 0.2595, 0.3574]), (0.99, [0.2718, 0.0572, 0.0572, 0.2590, 0.3549])],
)
def test_incoming_tokenrank(fig2, alpha, printed):
    close(fig2.teleport(alpha).tokenrank(), printed)


@pytest.mark.parametrize(
    ("alpha", "printed"),
    [(1, [0.2038, 0.2244, 0.2244, 0.1758, 0.1716]), (0.99, [0.2044, 0.2232, 0.2232, 0.1768, 0.1725])],
)
def test_outgoing_tokenrank_finds_the_hubs(fig2, alpha, printed):
    close(fig2.teleport(alpha).outgoing().tokenrank(), printed)


@pytest.mark.parametrize(
    ("alpha", "n", "printed"),
    [
        (1, 1, [0.0357, 0.0714, 0.0714, 0.5714, 0.2500]),
        (1, 2, [0.4459, 0.1225, 0.1225, 0.1902, 0.1188]),
        (0.99, 1, [0.0369, 0.0723, 0.0723, 0.5688, 0.2496]),
        (0.99, 2, [0.4421, 0.1236, 0.1236, 0.1906, 0.1201]),
    ],
)
def test_outgoing_bounces_from_state_4(fig2, alpha, n, printed):
    close(fig2.teleport(alpha).outgoing().bounce(4, n=n), printed)


def test_row_mean_of_the_20th_power_is_20_bounces_from_uniform(fig2):
    printed = [0.27195, 0.05556, 0.05556, 0.25952, 0.35742]
    close(fig2.bounce("uniform", n=20), printed, atol=5.1e-6)
    close(torch.linalg.matrix_power(fig2.matrix(), 20).mean(0), printed, atol=5.1e-6)


def test_second_eigenvalue_is_a_complex_pair_and_teleport_scales_it(fig2):
    assert fig2.lambda2().item() == pytest.approx(0.5809, abs=FOUR_DIGITS)
    assert fig2.teleport(0.99).lambda2().item() == pytest.approx(0.99 * fig2.lambda2().item(), rel=1e-14)


def test_teleport_before_column_normalisation_does_not_just_scale_lambda2(fig2):
    teleported = 0.99 * fig2.matrix() + 0.01 / 5
    outgoing = (teleported / teleported.sum(0)).mT
    expected = torch.linalg.eigvals(outgoing).abs().sort().values[-2]
    torch.testing.assert_close(fig2.teleport(0.99).outgoing().lambda2(), expected)
    assert abs(expected - 0.99 * fig2.outgoing().lambda2()) > 1e-5


def test_lazy_chain_keeps_tokenrank_and_halves_the_eigenvalues_way_to_one(fig2):
    expected = ((1 + torch.linalg.eigvals(fig2.matrix())) / 2).abs().sort().values[-2]
    torch.testing.assert_close(fig2.lazy().lambda2(), expected)
    torch.testing.assert_close(fig2.lazy().tokenrank(tol=1e-12), fig2.tokenrank(tol=1e-12), rtol=0, atol=1e-12)


def test_rollout_with_residual_walks_from_the_top_layer():
    first = AttentionChain(torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
    second = AttentionChain(torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
    close((second.lazy() @ first.lazy()).matrix(), [[0.7175, 0.2825], [0.23, 0.77]], atol=1e-6)


def test_rollout_without_normalisation_is_the_same_product_scaled():
    first, second = torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    rollout = AttentionChain(second).lazy() @ AttentionChain(first).lazy()
    close(4 * rollout.matrix(), [[2.87, 1.13], [0.92, 3.08]], atol=1e-6)


@pytest.mark.parametrize(
    ("start", "n", "printed", "top"),
    [
        (4, 1, [0.5, 0.05, 0.05, 0.05, 0.35], 0),
        (4, 2, [0.2625, 0.055, 0.055, 0.43, 0.1975], 3),
        ("uniform", 1, [0.36, 0.07, 0.07, 0.22, 0.28], 0),
        ("uniform", 2, [0.253, 0.057, 0.057, 0.327, 0.306], 3),
    ],
)
def test_fig2_bounces(fig2, start, n, printed, top):
    state = fig2.bounce(start, n=n)
    close(state, printed, atol=1e-12)
    assert state.argmax() == top


def test_fig2_steady_state_prefers_the_token_that_one_bounce_misses(fig2):
    assert fig2.bounce("uniform").argmax() == 0
    assert fig2.tokenrank().argmax() == 4


def test_column_sum_is_one_bounce_from_uniform(fig2):
    close(5 * fig2.bounce("uniform"), [1.8, 0.35, 0.35, 1.1, 1.4], atol=1e-12)


def test_personalised_teleport_lands_on_its_target(fig2):
    target = torch.tensor([0.5, 0.5, 0, 0, 0], dtype=torch.float64)
    expected = 0.9 * fig2.matrix() + 0.1 * torch.ones(5, 1, dtype=torch.float64) * target
    torch.testing.assert_close(fig2.teleport(0.9, target).matrix(), expected)
    torch.testing.assert_close(fig2.teleport(0.9, target).bounce(2), expected[2])


def test_outgoing_normalises_columns_and_transposes(fig2):
    expected = (fig2.matrix() / fig2.matrix().sum(0)).mT
    torch.testing.assert_close(fig2.outgoing().matrix(), expected)


def test_dropping_cls_equals_deleting_it_from_the_scores():
    scores = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    dropped = AttentionChain.from_scores(scores).drop(0).matrix()
    torch.testing.assert_close(dropped, AttentionChain.from_scores(scores[:, 1:, 1:]).matrix())


@pytest.mark.parametrize("tokens", [[1, 3], (3, 1), torch.tensor([1, 3, 3])])
def test_drop_deletes_rows_and_columns_and_normalises(fig2, tokens):
    kept = fig2.matrix()[[0, 2, 4]][:, [0, 2, 4]]
    torch.testing.assert_close(fig2.drop(tokens).matrix(), kept / kept.sum(-1, keepdim=True))


def test_dropping_nothing_changes_nothing(fig2):
    torch.testing.assert_close(fig2.drop([]).matrix(), fig2.matrix())


def test_uniform_mix_is_the_mean_and_lambda2_mix_weighs_by_lambda2(heads):
    torch.testing.assert_close(heads.mix("uniform").matrix(), heads.matrix().mean(1))
    share = heads.lambda2() / heads.lambda2().sum(-1, keepdim=True)
    torch.testing.assert_close(heads.mix("lambda2").matrix(), (share[..., None, None] * heads.matrix()).sum(1))


def test_mix_of_heads_without_structure_falls_back_to_uniform():
    rows = torch.softmax(torch.randn(3, 1, 9, generator=torch.Generator().manual_seed(3)), -1)
    rank_one = AttentionChain(rows.expand(3, 9, 9))  # each lambda2 is round-off
    torch.testing.assert_close(rank_one.mix("lambda2").matrix(), rank_one.mix("uniform").matrix())
    one_token = AttentionChain(torch.ones(3, 1, 1))
    torch.testing.assert_close(one_token.mix("lambda2").matrix(), torch.ones(1, 1))


@pytest.mark.parametrize("dim", [-2, 0])
def test_mix_takes_any_batch_dimension_and_any_weights(heads, dim):
    weights = torch.tensor([1.0, 3.0])
    expected = 0.25 * heads.matrix()[0] + 0.75 * heads.matrix()[1]
    torch.testing.assert_close(heads.mix(weights, dim=dim).matrix(), expected)
    full = weights[:, None].expand(2, 3)
    torch.testing.assert_close(heads.mix(full, dim=dim).matrix(), expected)


def test_mixing_teleported_heads_teleports_the_mix(heads):
    target = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    teleported = heads.teleport(0.8, target / target.sum(-1, keepdim=True))
    mixed = teleported.mix("lambda2")
    share = heads.lambda2() / heads.lambda2().sum(-1, keepdim=True)
    torch.testing.assert_close(mixed.matrix(), (share[..., None, None] * teleported.matrix()).sum(1))
