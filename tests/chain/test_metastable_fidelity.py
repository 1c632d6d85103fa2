"""Metastable sets are the crispest that the leading invariant subspace holds: by hand, by brute force, by a peer."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import linprog
from scipy.spatial import HalfspaceIntersection

from attention_chains.chain import AttentionChain

# Out of a middle token with equal chances; right eigenvectors (1, 1, 1), (1, 0, -1), (1, -1, 1) of 1, 0.9, 0.8.
WALK = torch.tensor([[0.90, 0.10, 0.00], [0.05, 0.90, 0.05], [0.00, 0.10, 0.90]], dtype=torch.float64)


def scores(kind, n, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, n, generator=generator, dtype=torch.float64)
    tokens = torch.arange(n)
    if kind == "clustered":
        return 4 * (tokens[:, None] % 4 == tokens % 4) + noise
    if kind == "local":
        return noise - (24 * (tokens[:, None] - tokens) / n).square()
    if kind == "cycle":
        return 4 * ((tokens[:, None] + 1) % 3 == tokens % 3) + noise
    return 3 * noise


def cases(sizes=(3, 4, 5)):
    """Chains, and numbers of sets that split no pair of theirs."""
    for kind in ("clustered", "local", "cycle", "random"):
        for seed in range(3):
            matrix = scores(kind, 40, seed).softmax(-1)
            moduli = np.sort(np.abs(np.linalg.eigvals(matrix.numpy())))[::-1]
            yield from ((kind, matrix, k) for k in sizes if moduli[k - 1] - moduli[k] > 1e-4)


def leading_schur_vectors(matrix, k):
    """(n, k), by LAPACK's ordered real Schur form."""
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix.numpy())))[::-1]
    limit = (moduli[k - 1] + moduli[k]) / 2
    _, vectors, size = scipy.linalg.schur(matrix.numpy(), sort=lambda re, im: np.hypot(re, im) > limit)
    assert size == k
    return vectors[:, :k]


def greatest_crispness(vectors):
    """Crispness of the best of all memberships, by listing every corner of the polytope that they are mixed from."""
    n, k = vectors.shape
    centred = vectors - vectors.mean(0)
    points = np.linalg.svd(centred)[0][:, : k - 1] * np.sqrt(n)
    half_spaces = np.concatenate([-points, -np.ones((n, 1))], 1)
    corners = HalfspaceIntersection(half_spaces, np.zeros(k - 1)).intersections
    mean_and_mass = np.concatenate([corners.T, np.ones((1, len(corners)))])
    best = linprog(-(corners**2).sum(1), A_eq=mean_and_mass, b_eq=np.eye(k)[-1], method="highs")
    return (1 - best.fun) / k


def crispness(memberships):
    return float(((memberships**2).sum(0) / memberships.sum(0)).mean())


def sets(memberships):
    labels = np.asarray(memberships).argmax(1)
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def close(measured, expected, atol=1e-6):
    torch.testing.assert_close(measured, torch.as_tensor(expected, dtype=measured.dtype), rtol=0, atol=atol)


def test_two_sets_by_hand():
    memberships, info = AttentionChain(WALK).metastable_sets(2, return_info=True)
    close(memberships, [[1, 0], [0.5, 0.5], [0, 1]])
    close(info.crispness, 5 / 6)  # each set: (1 + 1/4) / (1 + 1/2)
    close(info.coarse, [[0.95, 0.05], [0.05, 0.95]])
    close(info.eigenvalues.real, [1, 0.9])
    close(info.residual, 0)
    assert info.converged


def test_crispness_counts_tokens_by_their_weights():
    chain = AttentionChain(WALK)
    weights = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)  # the stationary vector
    memberships, info = chain.metastable_sets(2, weights, return_info=True)
    close(memberships, [[1, 0], [0.5, 0.5], [0, 1]])
    close(info.crispness, 3 / 4)  # each set: (1/4 + 1/2 * 1/4) / (1/4 + 1/2 * 1/2)
    close(chain.metastable_sets(2, chain.tokenrank(1e-9)), memberships, atol=1e-5)


@pytest.mark.parametrize("leak", [0.0, 1e-3, 0.05])
def test_blocks_that_leak_little_are_the_sets(leak):
    sizes = (9, 6, 4)
    blocks = torch.block_diag(*[scores("random", size, size).mul(0.3).softmax(-1) for size in sizes])
    matrix = (1 - leak) * blocks + leak / 19
    memberships, info = AttentionChain(matrix).metastable_sets(3, return_info=True)
    close(memberships, torch.eye(3).repeat_interleave(torch.tensor(sizes), 0), atol=1e-5)  # heavy sets first
    close(info.crispness, 1, atol=1e-5)
    close(info.coarse, (1 - leak) * torch.eye(3) + leak * torch.tensor(sizes) / 19, atol=1e-5)


def test_blocks_visited_in_turn_are_the_sets_of_a_chain_that_is_not_reversible():
    block = torch.arange(12) % 3
    matrix = (6.0 * ((block[:, None] + 1) % 3 == block) + 0.3 * scores("random", 12, 0)).softmax(-1)
    memberships, info = AttentionChain(matrix).metastable_sets(3, return_info=True)
    assert sets(memberships) == {frozenset(range(start, 12, 3)) for start in range(3)}
    assert info.crispness > 0.95
    assert info.eigenvalues[1:].imag.abs().min() > 0.5  # a conjugate pair, kept whole
    step = info.coarse.round()  # a cyclic permutation of the sets
    assert torch.equal(step @ step @ step, torch.eye(3, dtype=step.dtype)) and step.trace() == 0


@pytest.mark.parametrize(("kind", "matrix", "k"), list(cases()))
def test_no_memberships_are_crisper(kind, matrix, k):
    memberships, info = AttentionChain(matrix).metastable_sets(k, return_info=True)
    best = greatest_crispness(leading_schur_vectors(matrix, k))
    assert info.crispness.item() == pytest.approx(best, abs=1e-5)
    assert crispness(memberships) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("weights", ["uniform", "random"])
def test_weighted_memberships_beat_whatever_a_random_search_finds(k, weights):
    """Feasible memberships of the same subspace, drawn around the answer at several distances, are never crisper."""
    matrix = scores("clustered", 24, 0).softmax(-1)
    eta = torch.full((24,), 1 / 24, dtype=torch.float64)
    if weights == "random":
        eta = torch.rand(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    chi, info = AttentionChain(matrix).metastable_sets(k, eta, return_info=True)
    vectors = torch.as_tensor(leading_schur_vectors(matrix, k))
    generator = torch.Generator().manual_seed(2)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        turns = torch.eye(k) + size * torch.randn(400, k, k, generator=generator, dtype=torch.float64)
        slopes = torch.linalg.lstsq(vectors, chi).solution @ turns  # (400, k, k)
        tried = vectors @ slopes
        tried = tried - tried.mean(-2, keepdim=True)
        tried = tried - tried.mean(-1, keepdim=True)  # rows sum to zero: add floors, then scale them to one
        tried = tried - tried.amin(-2, keepdim=True)
        tried = tried / tried.sum(-1, keepdim=True)
        values = ((eta[:, None] * tried**2).sum(-2) / (eta[:, None] * tried).sum(-2)).mean(-1)
        assert values.max() <= info.crispness + 1e-7


@pytest.mark.parametrize(("kind", "matrix", "k"), list(cases()))
def test_memberships_span_the_leading_right_invariant_subspace(kind, matrix, k):
    memberships, info = AttentionChain(matrix).metastable_sets(k, return_info=True)
    angles = scipy.linalg.subspace_angles(memberships.numpy(), leading_schur_vectors(matrix, k))
    assert angles.max() < 1e-4
    assert info.residual < 1e-5
    leading = sorted(np.linalg.eigvals(matrix.numpy()), key=abs)[::-1][:k]
    np.testing.assert_allclose(info.eigenvalues.abs(), np.abs(leading), atol=1e-5)
    np.testing.assert_allclose(np.poly(info.coarse.numpy()), np.poly(leading).real, atol=1e-4)


def test_never_less_crisp_than_pygpcca_and_the_same_sets_where_that_is_as_crisp():
    pygpcca = pytest.importorskip("pygpcca", reason="the peer is an optional extra")
    same = near = 0
    for kind, matrix, k in cases(sizes=(2, 3, 4, 5)):
        peer = pygpcca.GPCCA(matrix.numpy(), method="brandts").optimize(k).memberships
        ours = AttentionChain(matrix).metastable_sets(k).numpy()
        assert crispness(ours) >= crispness(peer) - 1e-6, (kind, k)
        if crispness(ours) - crispness(peer) < 1e-3:
            near += 1
            same += sets(ours) == sets(peer)
    assert near >= 10
    assert same >= 0.9 * near
