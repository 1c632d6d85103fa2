"""Whatever the chain: memberships are distributions over the sets, and tokens, batches and operators do not matter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.chain import AttentionChain, ChainError


def random_scores(n, spread, seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)


def clustered(n, sets, seed, batch=(), dtype=torch.float64):
    """Chains that linger in sets of unequal size: token i is in set sqrt(i)-like, so that no two are alike."""
    label = (torch.linspace(0, 1, n).sqrt() * sets).long().clamp(max=sets - 1)
    return (random_scores(n, 0.5, seed, batch) + 5 * (label[:, None] == label)).softmax(-1).to(dtype), label


def same_labels(one, other):
    """Whether two labellings cut the tokens into the same sets."""
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(one.unique()) == len(other.unique())


@given(st.integers(1, 12), st.floats(0, 8), st.integers(0, 10**6), st.data())
def test_memberships_are_distributions_over_the_sets_or_k_splits_a_pair(n, spread, seed, data):
    k = data.draw(st.integers(1, n))
    chain = AttentionChain(random_scores(n, spread, seed).softmax(-1))
    try:
        memberships, info = chain.metastable_sets(k, return_info=True)
    except ChainError:
        eigenvalues = torch.linalg.eigvals(chain.matrix())
        moduli = eigenvalues.abs().sort(descending=True).values
        assert moduli[k - 1] - moduli[k] < 1e-6  # the two of the pair
        assert (eigenvalues.imag != 0).any()
        return
    assert memberships.shape == (n, k)
    assert (memberships >= 0).all()
    torch.testing.assert_close(memberships.sum(-1), torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (memberships.amax(0) > 1e-6).all()  # no set is empty
    assert 0 < info.crispness <= 1 + 1e-12
    assert info.residual < 1e-5
    torch.testing.assert_close(info.coarse.sum(-1), torch.ones(k, dtype=torch.float64), rtol=0, atol=1e-6)


@given(st.permutations(range(12)), st.integers(2, 4))
def test_renaming_tokens_renames_them_in_the_sets(order, sets):
    matrix, _ = clustered(12, sets, seed=sets)
    renamed = AttentionChain(matrix[order][:, order]).metastable_sets(sets)
    torch.testing.assert_close(renamed, AttentionChain(matrix).metastable_sets(sets)[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, "gap"])
def test_a_batch_is_its_chains(dtype, k):
    matrix, _ = clustered(20, 3, seed=0, batch=(2, 3), dtype=dtype)
    memberships, info = AttentionChain(matrix).metastable_sets(k, return_info=True)
    assert memberships.dtype == info.crispness.dtype == dtype
    for image in range(2):
        for head in range(3):
            alone, alone_info = AttentionChain(matrix[image, head]).metastable_sets(k, return_info=True)
            torch.testing.assert_close(memberships[image, head], alone, rtol=0, atol=1e-5)
            for name in ("crispness", "coarse", "eigenvalues", "residual"):
                torch.testing.assert_close(
                    getattr(info, name)[image, head], getattr(alone_info, name), rtol=0, atol=1e-5
                )


def test_weights_may_differ_by_chain():
    matrix, _ = clustered(20, 3, seed=0, batch=(2, 3))
    weights = random_scores(20, 1, 1)[:3].softmax(-1)  # one for each head
    _, info = AttentionChain(matrix).metastable_sets(3, weights, return_info=True)
    for head in range(3):
        _, alone = AttentionChain(matrix[1, head]).metastable_sets(3, weights[head], return_info=True)
        torch.testing.assert_close(info.crispness[1, head], alone.crispness, rtol=0, atol=1e-6)


def test_an_empty_batch_has_no_sets():
    chain = AttentionChain(torch.zeros(0, 5, 5))
    memberships, info = chain.metastable_sets(1, return_info=True)
    assert memberships.shape == (0, 5, 1)
    assert info.coarse.shape == (0, 1, 1)


def test_teleport_and_laziness_keep_the_sets():
    """Their leading right subspaces are the chain's own: teleport adds multiples of the constant vector."""
    matrix, _ = clustered(20, 4, seed=3)
    chain = AttentionChain(matrix)
    for kin in (chain.teleport(0.9), chain.lazy(), chain.teleport(0.8, chain.tokenrank()).lazy(0.1)):
        torch.testing.assert_close(kin.metastable_sets(4), chain.metastable_sets(4), rtol=0, atol=1e-6)


def test_implicit_chains_have_the_sets_of_their_matrices():
    matrix, _ = clustered(20, 3, seed=4)
    chain = AttentionChain(matrix)
    for implicit in (chain.outgoing(), chain @ chain, chain.teleport(0.9).outgoing().lazy()):
        memberships, info = implicit.metastable_sets(3, return_info=True)
        expected, expected_info = AttentionChain(implicit.matrix()).metastable_sets(3, return_info=True)
        torch.testing.assert_close(memberships, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(info.coarse, expected_info.coarse, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sets", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gap_counts_clusters(sets, dtype):
    matrix, label = clustered(48, sets, seed=sets, dtype=dtype)
    assert same_labels(AttentionChain(matrix).metastable_sets("gap").argmax(-1), label)


def test_the_gap_stays_within_its_limit_and_serves_the_whole_batch():
    five, _ = clustered(48, 5, seed=0)
    two, _ = clustered(48, 2, seed=0)
    assert AttentionChain(five).metastable_sets("gap", k_max=5).shape == (48, 5)
    assert AttentionChain(five).metastable_sets("gap", k_max=4).shape[-1] <= 4
    assert AttentionChain(torch.stack([two, two])).metastable_sets("gap").shape == (2, 48, 2)
    with pytest.raises(ChainError, match="k_max must be an integer of at least 2, got 1"):
        AttentionChain(five).metastable_sets("gap", k_max=1)


def test_a_conjugate_pair_is_never_split():
    block = torch.arange(12) % 3
    cycle = (random_scores(12, 0.3, 0) + 6.0 * ((block[:, None] + 1) % 3 == block)).softmax(-1)
    still, _ = clustered(12, 3, seed=0)
    with pytest.raises(ChainError, match=r"^k = 2 would split a conjugate pair of eigenvalues: take k = 1 or k = 3$"):
        AttentionChain(cycle).metastable_sets(2)
    with pytest.raises(ChainError, match=r"k = 2 .* of batch element \(1, 0\): take k = 1 or k = 3"):
        AttentionChain(torch.stack([still, cycle]).unsqueeze(1)).metastable_sets(2)
    with pytest.raises(
        ChainError, match=r"each k from 2 to 2 would split .*: raise k_max, or take the chains one by one"
    ):
        AttentionChain(cycle).metastable_sets("gap", k_max=2)
    assert AttentionChain(torch.stack([still, cycle])).metastable_sets("gap").shape == (2, 12, 3)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_one_set_holds_everything(n):
    memberships, info = AttentionChain(random_scores(n, 2, n).softmax(-1)).metastable_sets(1, return_info=True)
    assert torch.equal(memberships, torch.ones(n, 1, dtype=torch.float64))
    assert info.crispness == 1
    torch.testing.assert_close(info.coarse, torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_as_many_sets_as_tokens_are_the_tokens(n):
    chain = AttentionChain(random_scores(n, 2, n).softmax(-1))
    memberships, info = chain.metastable_sets(n, return_info=True)
    torch.testing.assert_close(memberships, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(info.coarse, chain.matrix(), rtol=0, atol=1e-9)
    torch.testing.assert_close(info.crispness, torch.tensor(1.0, dtype=torch.float64))


CONSTANT = torch.full((6, 6), 1 / 6)
SHIFT = torch.eye(6).roll(1, 1)
STAY_AT_THE_END = torch.cat([torch.eye(6)[1:], torch.eye(6)[-1:]])
DEGENERATE = {
    "identity": torch.eye(6),
    "all rows equal": CONSTANT,
    "all to one token": torch.eye(6)[:1].repeat(6, 1),
    "permutation": SHIFT,
    "period 2": torch.eye(2).roll(1, 1).repeat_interleave(3, 0).repeat_interleave(3, 1) / 3,
    "absorbing": STAY_AT_THE_END,
    "lazy shift": (torch.eye(6) + STAY_AT_THE_END) / 2,
    "equal blocks": torch.block_diag(CONSTANT[:3, :3] * 2, CONSTANT[:3, :3] * 2),
    "causal": torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None],
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_degenerate_chains_have_valid_sets_of_an_invariant_subspace(name, k):
    try:
        memberships, info = AttentionChain(DEGENERATE[name].double()).metastable_sets(k, return_info=True)
    except ChainError as error:  # equal eigenvalues may come out as a pair: round-off decides
        assert "would split a conjugate pair" in str(error)
        assert 2 < k < 6 or name in ("permutation", "absorbing", "lazy shift")
        return
    assert (memberships >= 0).all()
    torch.testing.assert_close(memberships.sum(-1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert info.residual < 1e-5


@pytest.mark.parametrize(
    ("name", "k"),
    [
        ("identity", 6),
        ("permutation", 6),
        ("all rows equal", 2),
        ("all to one token", 2),
        ("equal blocks", 2),
        ("period 2", 2),
        ("causal", 2),
    ],
)
def test_the_gap_of_degenerate_chains(name, k):
    memberships, info = AttentionChain(DEGENERATE[name].double()).metastable_sets("gap", return_info=True)
    assert memberships.shape == (6, k)
    assert info.residual < 1e-5


@pytest.mark.parametrize("k", [0, 6, -1, 2.0, True, "auto", None])
def test_k_that_is_no_number_of_sets(k):
    with pytest.raises(ChainError, match='k must be "gap" or an integer from 1 to 5, the number of tokens, got'):
        AttentionChain(torch.full((5, 5), 0.2)).metastable_sets(k)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (torch.tensor([0.5, 0.5, 0.0]), "weights are zero at token 2: give each token some"),
        (torch.tensor([0.5, 0.5, 0.5]), "weights sums to 1.5, off by 0.5"),
        (torch.tensor([0.5, 0.5]), "weights has shape"),
        (torch.full((2, 3), 1 / 3), r"weights has batch dimensions \(2,\), but the chain has only \(\)"),
        ([0.5, 0.25, 0.25], "weights must be a tensor of floats"),
    ],
)
def test_weights_that_are_no_distribution(weights, sentence):
    with pytest.raises(ChainError, match=sentence):
        AttentionChain(torch.full((3, 3), 1 / 3)).metastable_sets(2, weights)


def test_sets_of_a_matrix_that_wants_gradients_are_plain():
    matrix, _ = clustered(12, 2, seed=0)
    memberships, info = AttentionChain(matrix.requires_grad_()).metastable_sets(2, return_info=True)
    assert not memberships.requires_grad
    assert not info.crispness.requires_grad
