"""A measurement depends on map and mask alone: not on device, dtype, memory layout or gradients."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from attention_chains.metrics.segmentation import PROTOCOLS, measure

DEVICES = ["cpu"]
DEVICES += ["cuda"] if torch.cuda.is_available() else []
DEVICES += ["mps"] if torch.backends.mps.is_available() else []


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    score = torch.tensor(rng.integers(0, 200, (16, 24)) / 256, dtype=torch.float32)  # exact in bfloat16
    return score, rng.random((90, 120)) < 0.3


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("device", DEVICES)
def test_device_does_not_matter(case, protocol, device):
    score, mask = case
    assert measure(score.to(device), mask, protocol) == measure(score, mask, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_of_the_map_does_not_matter(case, protocol, dtype):
    score, mask = case
    assert measure(score.to(dtype), mask, protocol) == measure(score, mask, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_layout_of_map_and_kind_of_mask_do_not_matter(case, protocol):
    score, mask = case
    expected = measure(score, mask, protocol)
    strided = score.T.contiguous().T.requires_grad_()
    assert measure(strided, torch.tensor(mask), protocol) == expected
    assert measure(score.numpy(), mask.astype(np.uint8) * 255, protocol) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_map_is_measured_alike_wherever_it_stands_in_a_batch(case, protocol):
    score, mask = case
    batch = torch.stack([torch.rand(16, 24), score, torch.rand(16, 24)])
    assert measure(batch[1], mask, protocol) == measure(score, mask, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_inputs_stay_as_they_are_even_if_read_only(case, protocol):
    score, mask = case
    array, kept = score.numpy().copy(), mask.copy()
    array.flags.writeable = kept.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = measure(array, kept, protocol), measure(array, kept, protocol)
    assert first == second
    assert np.array_equal(array, score.numpy()) and np.array_equal(kept, mask)
