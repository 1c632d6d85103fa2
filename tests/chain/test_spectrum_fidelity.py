"""The leading eigenvalues agree with numpy, come in order, and keep their pairs together."""

import numpy as np
import pytest
import torch
from heads import KINDS, heads

from attention_chains.chain import AttentionChain, ChainError


def exact(matrix):
    wide = matrix.double().numpy()
    values = np.linalg.eigvals(wide / wide.sum(-1, keepdims=True))
    return torch.from_numpy(values[np.argsort(-np.abs(values), kind="stable")])


@pytest.mark.parametrize("n", [40, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_moduli_agree_with_numpy(kind, n):
    for seed, k in enumerate((1, 2, 3, 6)):
        matrix = heads(kind, n, seed)[0]
        found = AttentionChain(matrix).spectrum(k)
        assert found.shape == (k,)
        assert found.dtype == torch.complex64
        assert found[0] == 1
        torch.testing.assert_close(found.abs().double(), exact(matrix)[:k].abs(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "n", "seed", "k"), [("sink", 200, 11, 8), ("cycle", 200, 74, 4), ("clustered", 120, 85, 8)]
)
def test_the_last_is_none_that_a_larger_one_hides_behind(kind, n, seed, k):
    matrix = heads(kind, n, seed)[0].float()
    found = AttentionChain(matrix).spectrum(k)
    torch.testing.assert_close(found.abs().double(), exact(matrix)[:k].abs(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["cycle", "shift", "clustered"])
def test_each_is_an_eigenvalue(kind):
    matrix = heads(kind, 120, seed=8)[0]
    every = exact(matrix)
    for value in AttentionChain(matrix).spectrum(5):
        assert (every - value).abs().min() < 1e-4


@pytest.mark.parametrize("n", [30, 130])
def test_conjugate_pairs_are_side_by_side(n):
    found = AttentionChain(heads("shift", n, seed=0, count=5)).spectrum(7)  # the 1 and three pairs
    assert (found[:, 1:].imag.abs() > 1e-3).all()
    torch.testing.assert_close(found[:, 1::2], found[:, 2::2].conj(), rtol=0, atol=1e-6)


def test_all_eigenvalues_of_a_small_chain():
    chain = AttentionChain(heads("random", 7, seed=0, count=6, dtype=torch.float64).view(2, 3, 7, 7))
    found = chain.spectrum(7)
    assert found.shape == (2, 3, 7)
    assert found.dtype == torch.complex128
    torch.testing.assert_close(found.sum(-1).real, chain.matrix().diagonal(dim1=-2, dim2=-1).sum(-1))


@pytest.mark.parametrize("n", [24, 160])
def test_a_multiple_eigenvalue_is_listed_as_often_as_it_is_one(n):
    matrix = torch.block_diag(*[torch.full((n // 4, n // 4), 4 / n) for _ in range(4)])
    expected = torch.tensor([1, 1, 1, 1, 0], dtype=torch.complex64)
    torch.testing.assert_close(AttentionChain(matrix).spectrum(5), expected, rtol=0, atol=2e-6)


def test_teleport_scales_all_but_the_first():
    chain = AttentionChain(heads("clustered", 100, seed=3))
    expected = torch.cat([chain.spectrum(4)[:, :1], 0.6 * chain.spectrum(4)[:, 1:]], -1)
    torch.testing.assert_close(chain.teleport(0.6).spectrum(4), expected)


def test_the_second_is_lambda2():
    chain = AttentionChain(heads("local", 90, seed=3, count=4))
    torch.testing.assert_close(chain.spectrum(2)[:, 1].abs(), chain.lambda2(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [0, 6, -1, 2.0, True, "all"])
def test_an_impossible_number_is_refused(fig2, k):
    with pytest.raises(ChainError, match="k must be an integer from 1 to 5"):
        fig2.spectrum(k)


def test_a_single_token_and_an_empty_batch():
    assert AttentionChain(torch.ones(1, 1)).spectrum(1) == 1
    assert AttentionChain(torch.empty(0, 80, 80)).spectrum(3).shape == (0, 3)


@pytest.mark.parametrize("n", [100, 130, 600])
@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("stay", [0.5, 1.0])
def test_a_space_that_closes_at_once_is_not_filled_with_round_off(n, k, stay):
    """Of a lazy walk to anywhere one bounce says all; what is left of the next one is noise."""
    chain = AttentionChain(torch.full((n, n), 1 / n)).lazy(stay) if stay < 1 else AttentionChain(torch.eye(n))
    expected = torch.tensor([1.0, *[stay] * (k - 1)], dtype=torch.float64)
    torch.testing.assert_close(chain.spectrum(k).abs().double(), expected, atol=1e-5, rtol=0)
