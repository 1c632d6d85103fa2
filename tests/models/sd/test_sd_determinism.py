"""A sample depends on its seed: not on its batch, its place, an earlier batch, or the global generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

SEEDS = [11, 22, 33]


def test_noise_is_the_seeds_whatever_the_batch(sd):
    assert torch.equal(sd.noise(SEEDS), torch.cat([sd.noise([seed]) for seed in SEEDS]))
    assert not torch.equal(*sd.noise([1, 2]))


@pytest.mark.parametrize("posterior", [{}, {"posterior": "sample", "seeds": SEEDS}])
def test_encoding_is_the_same_bits_in_any_batch_and_order(sd, photographs, posterior):
    together = sd.encode(photographs, **posterior)
    turned = {**posterior, "seeds": SEEDS[::-1]} if posterior else {}
    assert torch.equal(sd.encode(photographs[::-1], **turned).flip(0), together)


def test_decoding_is_the_same_bytes_in_any_batch(sd):
    latents = sd.noise(SEEDS)
    assert np.array_equal(sd.decode(latents), np.concatenate([sd.decode(latents[i : i + 1]) for i in range(3)]))


def test_an_embedding_is_the_same_bits_in_any_batch(sd):
    prompts = ["a red three", "", "a blue seven"]
    assert torch.equal(sd.context(prompts), torch.cat([sd.context([prompt]) for prompt in prompts]))


def test_a_sample_of_a_batch_is_predicted_as_alone(sd):
    latents, context = sd.noise(SEEDS), sd.context([""])
    alone = [sd.predict(latents[i : i + 1], 300, context) for i in range(3)]
    torch.testing.assert_close(sd.predict(latents, 300, context), torch.cat(alone), atol=1e-5, rtol=0)


def test_schedulers_share_no_state(sd):
    sd.pipe.scheduler.ets = []  # whatever another test left there
    first, second = sd.scheduler(), sd.scheduler(6)
    assert (len(first.timesteps), len(second.timesteps)) == (5, 7)
    first.step(torch.ones(1, 4, 2, 2), first.timesteps[0], torch.ones(1, 4, 2, 2))
    assert first.ets and not second.ets and not sd.scheduler().ets and not sd.pipe.scheduler.ets


def test_nothing_draws_from_the_global_generator(sd, photographs):
    state = torch.get_rng_state()
    latents = sd.encode(photographs[:1], "sample", [1]) + sd.noise([1])
    sd.decode(sd.predict(latents, 300, sd.context([""])))
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_runs_with_single_precision_between_the_passes(load_sd, sd, photographs):
    half = load_sd(dtype=torch.bfloat16)
    noise, context = half.noise([1]), half.context([""])
    assert context.dtype == half.pipe.unet.dtype == torch.bfloat16 and torch.equal(noise, sd.noise([1]))
    predicted, latents = half.predict(noise, 300, context), half.encode(photographs[:1])
    assert predicted.dtype == latents.dtype == torch.float32
    torch.testing.assert_close(predicted, sd.predict(noise, 300, sd.context([""])), atol=0.1, rtol=0.1)
    assert half.decode(latents).dtype == np.uint8
