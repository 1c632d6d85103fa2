"""Cross-attention as a chain: queries go to keys as they attend, keys to every query alike (paper, section 6)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.chain import AttentionChain, ChainError, products
from attention_chains.chain.rectangular import queries_and_keys


def random_cross(m, n, batch, masked, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(*batch, m, n, generator=draw, dtype=torch.float64)
    if masked:
        scores = scores.masked_fill(torch.rand(*scores.shape[:-1], n, generator=draw) < 0.4, -torch.inf)
        scores[..., 0] = 0
    return scores


crosses = st.builds(
    random_cross,
    m=st.integers(1, 7),
    n=st.integers(1, 7),
    batch=st.sampled_from([(), (2,), (2, 3)]),
    masked=st.booleans(),
    seed=st.integers(0, 10_000),
)


@pytest.fixture(autouse=True, params=[8, 2**18], ids=["many pieces", "one piece"])
def pieces(request, monkeypatch):
    monkeypatch.setitem(products.CHUNK, "cpu", request.param)


few = settings(max_examples=10)


def by_hand(scores):
    """Return [[0, A], [1 / m, 0]], entry by entry."""
    *batch, m, n = scores.shape
    square = torch.zeros(*batch, m + n, m + n, dtype=torch.float64)
    square[..., :m, m:] = scores.exp() / scores.exp().sum(-1, keepdim=True)
    square[..., m:, :m] = 1 / m
    return square


@few
@given(crosses, st.sampled_from([(), (4,)]))
def test_every_operation_is_that_of_the_square_matrix(scores, states):
    cross, square = AttentionChain.from_cross(scores), AttentionChain(by_hand(scores))
    assert (cross.n, cross.batch_shape, cross.storage) == (square.n, square.batch_shape, "dense")
    state = torch.randn(*states, *cross.batch_shape, cross.n, dtype=torch.float64)
    for derive in (
        lambda chain: chain,
        lambda chain: chain.teleport(0.9).outgoing(),
        lambda chain: chain.lazy() @ chain.outgoing(),
        lambda chain: chain.mix() if chain.batch_shape and not states else chain,
        lambda chain: chain.drop([]),
    ):
        ours, theirs = derive(cross), derive(square)
        torch.testing.assert_close(ours.matrix(), theirs.matrix(), rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.bounce(0, n=3), theirs.bounce(0, n=3), rtol=0, atol=1e-12)
        ours, theirs = ours._operator, theirs._operator
        walk = state[..., : ours.n] if ours.batch_shape == cross.batch_shape else torch.ones(ours.n).double()
        torch.testing.assert_close(ours.apply(walk), theirs.apply(walk), rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.apply_transposed(walk), theirs.apply_transposed(walk), rtol=0, atol=1e-12)


@few
@given(crosses)
def test_the_stationary_vector_is_in_closed_form(scores):
    *batch, m, _ = scores.shape
    queries, keys = queries_and_keys(AttentionChain.from_cross(scores).tokenrank(), m)
    torch.testing.assert_close(queries, torch.full((*batch, m), 0.5 / m, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(keys, scores.softmax(-1).mean(-2) / 2, rtol=0, atol=1e-7)


@few
@given(crosses, st.sampled_from([0.5, 0.99]))
def test_the_teleported_stationary_vector_is_in_closed_form(scores, alpha):
    *batch, m, n = scores.shape
    ranks = AttentionChain.from_cross(scores).teleport(alpha).tokenrank(tol=1e-8)
    queries, keys = queries_and_keys(ranks, m)
    share = (alpha + (1 - alpha) * m / (m + n)) / (1 + alpha)
    mean = scores.softmax(-1).mean(-2)
    torch.testing.assert_close(queries, torch.full((*batch, m), share / m, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(keys, alpha * share * mean + (1 - alpha) / (m + n), rtol=0, atol=1e-7)


@few
@given(crosses, st.sampled_from([0.0, 0.3, 0.8]))
def test_lambda2_is_one_whatever_the_attention_unless_teleported_or_lazy(scores, stay):
    m, n = scores.shape[-2:]
    chain = AttentionChain.from_cross(scores)
    expected = torch.ones(chain.batch_shape, dtype=torch.float64)
    torch.testing.assert_close(chain.lambda2(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(chain.teleport(0.9).lambda2(), 0.9 * expected, rtol=0, atol=1e-6)
    lazy = abs(2 * stay - 1) if m + n == 2 else max(stay, abs(2 * stay - 1))
    torch.testing.assert_close(chain.lazy(stay).lambda2(), lazy * expected, rtol=0, atol=1e-5)


def test_bounces_alternate_between_queries_and_keys():
    scores = random_cross(4, 3, (), False, 0)
    walk = AttentionChain.from_cross(scores).bounces(2, n=5)
    queries, keys = queries_and_keys(walk, 4)
    torch.testing.assert_close(queries.sum(-1), torch.tensor([1.0, 0, 1, 0, 1, 0]).double())
    torch.testing.assert_close(keys[1], scores[2].softmax(-1))
    torch.testing.assert_close(queries[2], torch.full((4,), 0.25).double())
    torch.testing.assert_close(keys[3], scores.softmax(-1).mean(0))
    torch.testing.assert_close(keys[5], keys[3])


def test_an_outgoing_bounce_from_a_key_is_its_column():
    scores = random_cross(4, 3, (), False, 0)
    column = scores.softmax(-1)[:, 1]
    queries, keys = queries_and_keys(AttentionChain.from_cross(scores).outgoing().bounce(4 + 1), 4)
    torch.testing.assert_close(queries, column / column.sum())
    assert torch.equal(keys, torch.zeros_like(keys))


def test_probabilities_are_taken_as_they_are():
    scores = random_cross(4, 3, (2,), False, 0).float()
    given = AttentionChain.from_cross(scores.softmax(-1), probabilities=True)
    torch.testing.assert_close(given.matrix(), AttentionChain.from_cross(scores).matrix())
    assert given.dtype == torch.float32
    assert AttentionChain.from_cross(scores.bfloat16()).dtype == torch.float32


def test_a_float64_state_is_bounced_in_float64():
    matrix = random_cross(40, 30, (2,), False, 0).softmax(-1).float()
    operator = AttentionChain.from_cross(matrix, probabilities=True)._operator
    state = torch.rand(2, 70, dtype=torch.float64)
    exact = operator.dense(torch.float64)
    torch.testing.assert_close(operator.apply(state), torch.einsum("bi,bij->bj", state, exact), rtol=1e-13, atol=0)


def test_gradients_flow_to_the_scores():
    scores = random_cross(4, 3, (2,), False, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: AttentionChain.from_cross(x).teleport().outgoing().bounce(0, n=2), scores)


@pytest.mark.parametrize(
    ("scores", "probabilities", "sentence"),
    [
        (torch.ones(3), False, r"scores must have shape \(..., m, n\), .*, got \(3,\)"),
        (torch.ones(2, 0), False, r"scores must have shape .* of at least 1, got \(2, 0\)"),
        (torch.ones(2, 3).long(), True, r"attention must be a tensor of .*, got a tensor of torch.int64"),
        (torch.tensor([[0.0, torch.nan]]), False, r"scores row 0 holds nan at token 1"),
        (torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]]), False, r"scores row 1 is -inf at every token"),
        (torch.ones(2, 3), True, r"attention row 0 sums to 3, .*, or pass scores with probabilities=False"),
        (torch.tensor([[1.5, -0.5]]), True, r"attention row 0 holds -0.5 at token 1: pass attention after the softmax"),
    ],
)
def test_bad_input_is_refused(scores, probabilities, sentence):
    with pytest.raises(ChainError, match=sentence):
        AttentionChain.from_cross(scores, probabilities)


@pytest.mark.parametrize("m", [0, 5, 9])
def test_parts_are_cut_within_the_state(m):
    with pytest.raises(ChainError, match=rf"m must be the number of queries, from 1 to 4 here, got {m}"):
        queries_and_keys(torch.ones(5), m)
