"""A sample's attention depends on the sample and its seed: not on its batch, its place, or the global generator."""

from __future__ import annotations

import pytest
import torch

SEEDS = [11, 22, 33]


def heads(flux, samples, seeds, stream="dual"):
    images, prompts = [sample.image for sample in samples], [sample.prompt for sample in samples]
    return flux.attention(images, prompts, seeds, streams=("dual", "single")).heads(stream).matrix()


@pytest.mark.parametrize("stream", ["dual", "single"])
def test_a_batch_of_three_is_three_batches_of_one(flux, scenes, stream):
    together = heads(flux, scenes, SEEDS, stream)
    apart = [heads(flux, [scene], [seed], stream) for scene, seed in zip(scenes, SEEDS, strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)


def test_the_order_within_a_batch_does_not_matter(flux, scenes):
    straight = heads(flux, scenes, SEEDS)
    turned = heads(flux, scenes[::-1], SEEDS[::-1])
    torch.testing.assert_close(turned.flip(0), straight, atol=1e-5, rtol=0)


def test_the_same_call_gives_the_same_bits_and_leaves_the_global_generator_alone(flux, scenes):
    first = heads(flux, scenes, SEEDS)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(heads(flux, scenes, SEEDS), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_is_other_noise(flux, scenes):
    assert (heads(flux, scenes[:1], [1]) - heads(flux, scenes[:1], [2])).abs().max() > 1e-4
