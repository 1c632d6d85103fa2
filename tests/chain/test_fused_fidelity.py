"""A fused chain, which never forms its matrix, answers as the dense chain of the same queries and keys."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from attention_chains.chain import AttentionChain, ChainError, fused_pieces

MASKS = ("none", "keys", "keys of all", "general", "per head", "additive", "additive keys", "expanded")


def random_mask(kind, batch, n, draw):
    """Return a mask that leaves every token itself, and every causal token its first one."""
    if kind == "none":
        return None
    heads = (*batch[:-1], 1) if kind == "per head" and batch else batch
    shape = {"keys": (*batch, 1, n), "keys of all": (n,), "additive keys": (*batch, 1, n), "general": (n, n)}
    allowed = torch.rand(shape.get(kind, (*heads, n, n)), generator=draw) < 0.6
    allowed[..., 0] = True
    if kind == "expanded":
        return allowed[..., :1, :].expand(*batch, n, n)
    if kind.startswith("additive"):
        return torch.randn(allowed.shape, generator=draw).masked_fill(~allowed, -torch.inf)
    return allowed


def oracle(q, k, scale, mask, causal):
    """Return softmax(scale q k^T + mask) by numpy in float64."""
    n, d = q.shape[-2:]
    if k.shape != q.shape:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    logits = (d**-0.5 if scale is None else scale) * (q.double().numpy() @ k.double().numpy().swapaxes(-1, -2))
    if mask is not None:
        mask = mask.numpy() if mask.dtype != torch.bool else np.where(mask.numpy(), 0, -np.inf)
        logits = logits + mask
    return torch.from_numpy(softmax(np.where(np.tri(n, dtype=bool) | (not causal), logits, -np.inf), -1))


@st.composite
def both(draw, dtypes=(torch.float64,), sizes=(1, 9)):
    """Draw a fused chain and the dense chain of the same attention."""
    n, d = draw(st.integers(*sizes)), draw(st.integers(1, 6))
    batch, key_batch = draw(
        st.sampled_from([((), ()), ((1,), (1,)), ((3,), (3,)), ((2, 3), (2, 3)), ((4,), (2,)), ((2, 6), (2, 2))])
    )
    dtype, causal = draw(st.sampled_from(dtypes)), draw(st.booleans())
    scale, kind = draw(st.sampled_from([None, 2.0])), draw(st.sampled_from(MASKS))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    q = torch.randn(*batch, n, d, generator=seed).to(dtype)
    k = torch.randn(*key_batch, n, d, generator=seed).to(dtype)
    mask = random_mask(kind, batch, n, seed)
    chain = AttentionChain.from_qk(q, k, scale, mask, causal, storage="fused")
    return chain, AttentionChain(oracle(q, k, scale, mask, causal))


@pytest.fixture(autouse=True, params=[8, 2**18], ids=["many pieces", "one piece"])
def pieces(request, monkeypatch):
    """Cut the attention into single rows too, as large chains are."""
    monkeypatch.setitem(fused_pieces.ENTRIES, "cpu", request.param)


def assert_same(fused, dense, atol=1e-11):
    torch.testing.assert_close(fused, dense, rtol=0, atol=atol, check_dtype=False)


few = settings(max_examples=15)

DERIVED = {
    "bare": lambda chain: chain,
    "teleport": lambda chain: chain.teleport(0.9),
    "outgoing": lambda chain: chain.teleport(0.99).outgoing(),
    "lazy": lambda chain: chain.lazy(0.3),
    "product": lambda chain: chain.lazy() @ chain.teleport(0.8),
    "uniform mix": lambda chain: chain.mix() if chain.batch_shape else chain,
    "lambda2 mix": lambda chain: chain.teleport(0.9).mix("lambda2") if chain.batch_shape else chain,
    "mix of the images": lambda chain: chain.mix(dim=0) if chain.batch_shape else chain,
}
derived = st.sampled_from(list(DERIVED.values()))
DROPS = {
    "drop": lambda chain, tokens: chain.drop(tokens),
    "drop twice": lambda chain, tokens: chain.drop(tokens).drop([]),
    "drop of teleport": lambda chain, tokens: chain.teleport(0.9).drop(tokens),
    "drop of outgoing": lambda chain, tokens: chain.outgoing().drop(tokens),
    "drop of mix": lambda chain, tokens: (chain.mix() if chain.batch_shape else chain).drop(tokens),
}


@few
@given(both(), derived)
def test_every_operation_bounces_as_the_dense_chain(pair, derive):
    fused, dense = map(derive, pair)
    assert (fused.storage, dense.storage) == ("fused", "dense")
    assert_same(fused.bounce(fused.n - 1, n=3), dense.bounce(fused.n - 1, n=3))
    assert_same(fused.bounces("uniform", n=2), dense.bounces("uniform", n=2))
    assert_same(fused.matrix(), dense.matrix())
    assert_same(fused.outgoing().bounce(0, n=2), dense.outgoing().bounce(0, n=2))


@few
@given(both(), derived, st.sampled_from([(), (1,), (5,), (3, 1)]), st.booleans())
def test_states_broadcast_as_with_the_dense_chain(pair, derive, states, whole_batch):
    fused, dense = map(derive, pair)
    batch = fused.batch_shape if whole_batch else ()
    state = torch.randn(*states, *batch, fused.n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if not whole_batch and fused.batch_shape and states not in ((), (1,)):
        state = state.unflatten(0, (states[0], *[1] * len(fused.batch_shape)))
    assert_same(fused.step(state), dense.step(state))
    assert_same(fused._operator.apply_transposed(state), dense._operator.apply_transposed(state))


def test_a_batch_of_one_broadcasts_with_the_states():
    q = torch.randn(1, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    fused, dense = (AttentionChain.from_qk(q, q, storage=storage) for storage in ("fused", "dense"))
    state = torch.rand(4, 3, 2, 5)
    assert_same(fused.step(state), dense.step(state), atol=1e-6)


@few
@given(both())
def test_lambda2_and_tokenrank_are_those_of_the_dense_chain(pair):
    fused, dense = pair
    assert_same(fused.teleport(0.9).lambda2(), dense.teleport(0.9).lambda2(), atol=1e-6)
    assert_same(fused.teleport(0.9).tokenrank(tol=1e-8), dense.teleport(0.9).tokenrank(tol=1e-8), atol=4e-8)
    outgoing = [chain.teleport(0.9).outgoing().tokenrank(tol=1e-8) for chain in pair]
    assert_same(*outgoing, atol=4e-8)


@few
@given(both(sizes=(2, 9)), st.sampled_from(list(DROPS.values())), st.data())
def test_dropping_tokens_stays_matrix_free(pair, drop, data):
    tokens = data.draw(st.lists(st.integers(0, pair[0].n - 1), max_size=pair[0].n - 1, unique=True))
    fused, dense = pair
    try:
        dense = drop(dense, tokens)
    except ChainError as error:
        with pytest.raises(ChainError, match=r"goes to dropped tokens only: drop it too") as refused:
            drop(fused, tokens)
        assert str(refused.value).split(" goes")[0] == str(error).split(" goes")[0]
        assume(False)
    fused = drop(fused, tokens)
    assert fused.storage == "fused"
    assert_same(fused.bounces("uniform", n=2), dense.bounces("uniform", n=2))
    assert_same(fused.matrix(), dense.matrix())
    transposed = [chain._operator.apply_transposed(torch.arange(chain.n).double()) for chain in (fused, dense)]
    assert_same(*transposed)


@few
@given(both())
def test_one_chain_of_the_batch_is_selected_with_its_own_key_and_mask(pair):
    fused, dense = (chain._operator for chain in pair)
    while fused.batch_shape:
        fused, dense = (operator.select(0, operator.batch_shape[0] - 1) for operator in (fused, dense))
    assert_same(fused.dense(), dense.dense())
    state = torch.rand(fused.n, dtype=torch.float64)
    assert_same(fused.apply(state), dense.apply(state))
    keep = torch.arange(fused.n)
    assert_same(fused.drop(keep).apply(state), dense.apply(state))


@few
@given(both(dtypes=(torch.float32,), sizes=(30, 80)))
def test_float32_is_within_1e_5_of_float64(pair):
    fused, dense = pair
    assert fused.dtype == torch.float32
    for walk, exact in (
        (fused.bounces(3, n=5), dense.bounces(3, n=5)),
        (fused.teleport().outgoing().bounces(3, n=5), dense.teleport().outgoing().bounces(3, n=5)),
    ):
        error = (walk - exact).abs().amax(-1) / exact.abs().amax(-1)
        assert error.max() < 1e-5
