"""The pieces of self-attention guidance, each against its formula written out, and the invariants of protocol 2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from attention_chains import methods
from attention_chains.chain import AttentionChain
from attention_chains.tasks import guidance

WEIGHTS = [0.000134, 0.004432, 0.053991, 0.241971, 0.398943]  # from the edge to the middle (protocol 2)
SALIENCIES = {name: methods.bind(name, {}, kind="saliency") for name in ("sag_column_sum", "sag_tokenrank")}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(n, seed, sharpness, batch=2):
    return torch.softmax(sharpness * normal(batch, n, n, seed=seed), -1)


def test_the_blur_has_the_protocols_weights():
    point = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    point[0, 0, 10, 10] = 1
    row = guidance.blurred(point)[0, 0].sum(0)
    assert row[6:15].tolist() == pytest.approx(WEIGHTS + WEIGHTS[-2::-1], abs=1e-6)
    assert row.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("size", [(5, 5), (12, 7), (16, 33)])
def test_the_blur_is_scipys_separable_one_with_mirrored_borders(size):
    latents = normal(2, 4, *size)
    taps = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    expected = latents.numpy()
    for axis in (2, 3):
        expected = convolve1d(expected, taps / taps.sum(), axis=axis, mode="mirror")
    np.testing.assert_allclose(guidance.blurred(latents).numpy(), expected, atol=1e-12)


@given(st.floats(0.004, 0.999))
def test_the_clean_estimate_and_its_noise_are_the_latents_again(signal):
    latents, noise = normal(1, 4, 6, 5), normal(1, 4, 6, 5, seed=1)
    clean = guidance.clean_estimate(latents, noise, signal)
    torch.testing.assert_close(math.sqrt(signal) * clean + math.sqrt(1 - signal) * noise, latents)
    torch.testing.assert_close(guidance.renoised(clean, noise, signal), latents)


@given(st.floats(0.004, 0.999))
def test_an_empty_mask_degrades_nothing_and_a_full_one_blurs_all(signal):
    latents, noise = normal(2, 4, 9, 12), normal(2, 4, 9, 12, seed=1)
    nothing, everything = torch.zeros(2, 1, 9, 12, dtype=torch.bool), torch.ones(2, 1, 9, 12, dtype=torch.bool)
    torch.testing.assert_close(guidance.degraded(latents, noise, nothing, signal), latents)
    clean = guidance.clean_estimate(latents, noise, signal)
    expected = guidance.renoised(guidance.blurred(clean), noise, signal)
    assert torch.equal(guidance.degraded(latents, noise, everything, signal), expected)


def test_what_lies_outside_the_mask_is_left_and_inside_it_blurred():
    latents, noise = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:5, 3:] = True
    whole = guidance.degraded(latents, noise, torch.ones_like(mask), 0.5)
    found = guidance.degraded(latents, noise, mask, 0.5)
    inside = mask.expand_as(latents)
    torch.testing.assert_close(found[~inside], latents[~inside])
    assert torch.equal(found[inside], whole[inside])


@pytest.mark.parametrize("latent_size", [(8, 8), (8, 12), (7, 11), (16, 9)])
def test_a_token_is_spread_to_the_nearest_latents(latent_size):
    mask = torch.rand(3, 4 * 6, generator=torch.Generator().manual_seed(0)) > 0.5
    found = guidance.on_latents(mask, (4, 6), latent_size)
    rows = [row * 4 // latent_size[0] for row in range(latent_size[0])]
    columns = [column * 6 // latent_size[1] for column in range(latent_size[1])]
    assert torch.equal(found[:, 0], mask.view(3, 4, 6)[:, rows][:, :, columns])


@given(
    st.lists(st.sampled_from([0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 3.0]), min_size=1, max_size=40),
    st.one_of(st.none(), st.sampled_from([0.05, 0.29, 0.4, 1.0])),
)
def test_the_mask_is_what_exceeds_the_threshold_and_of_it_the_highest_share(values, cap):
    found = guidance.saliency_mask(torch.tensor([values]), 1.0, cap)[0].tolist()
    above = [index for index, value in enumerate(values) if value > 1]
    most = len(values) if cap is None else round(100 * cap) * len(values) // 100
    kept = sorted(above, key=lambda index: -values[index])[:most]  # sorted is stable: of equals, the earlier
    assert [index for index, masked in enumerate(found) if masked] == sorted(kept)


def test_another_threshold_is_another_mask():
    saliency = torch.tensor([[0.2, 0.9, 1.2, 1.7]])
    assert guidance.saliency_mask(saliency, 0.5).tolist() == [[False, True, True, True]]


@given(st.integers(2, 40), st.integers(0, 99), st.floats(0, 6))
def test_both_saliencies_have_a_mean_of_one(n, seed, sharpness):
    chain = AttentionChain(attention(n, seed, sharpness))
    for saliency in SALIENCIES.values():
        found = saliency(chain, (1, n))
        assert found.shape == (2, n)
        torch.testing.assert_close(found.mean(-1), torch.ones(2, dtype=torch.float64))


@given(st.integers(2, 24), st.integers(0, 99))
def test_the_saliencies_are_column_sums_and_the_stationary_vector(n, seed):
    matrix = attention(n, seed, 3.0)
    chain = AttentionChain(matrix)
    torch.testing.assert_close(SALIENCIES["sag_column_sum"](chain, (1, n)), matrix.sum(-2))
    google = 0.99 * matrix + 0.01 / n
    stationary = torch.linalg.matrix_power(google, 4096)[:, 0]
    torch.testing.assert_close(SALIENCIES["sag_tokenrank"](chain, (1, n)) / n, stationary, rtol=0, atol=1e-5)


def test_alpha_is_a_key_of_tokenrank():
    matrix = attention(9, 0, 3.0)
    found = methods.bind("sag_tokenrank", {"alpha": 0.5}, kind="saliency")(AttentionChain(matrix), (3, 3))
    stationary = torch.linalg.matrix_power(0.5 * matrix + 0.5 / 9, 256)[:, 0]
    torch.testing.assert_close(found / 9, stationary, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SALIENCIES)
def test_attention_whose_columns_sum_to_one_masks_nothing(name):
    matrix = attention(12, 3, 2.0)
    for _ in range(500):  # Sinkhorn: rows and columns in turn
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    found = SALIENCIES[name](AttentionChain(matrix), (3, 4))
    assert not guidance.saliency_mask(found, 1 + 1e-4).any()  # a margin: rounding leaves them a little off one


def test_no_guidance_has_no_saliency():
    assert methods.bind("none", {}, kind="saliency")(AttentionChain(attention(4, 0, 1.0)), (2, 2)) is None
