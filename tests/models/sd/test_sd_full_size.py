"""The UNet of Stable Diffusion 1.5 in its full size, with random weights: the layers of protocols 2 and 3.1."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel

from attention_chains.capture import capture
from attention_chains.models.sd15 import StableDiffusion

SIZES = {"block_out_channels": (320, 640, 1280, 1280), "norm_num_groups": 32, "attention_head_dim": 8}
WIDE = {"cross_attention_dim": 768, "sample_size": 64}


@pytest.fixture(scope="module")
def full(new_sd) -> StableDiffusion:
    """The tiny pipeline with the wide UNet, its 860 million weights from one small draw."""
    pipe = new_sd()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**pipe.unet.config, **SIZES, **WIDE})
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    for parameter in unet.parameters():
        for chunk in parameter.data.view(-1).split(noise.numel()):
            chunk.copy_(noise[: chunk.numel()])
    pipe.unet = unet
    return StableDiffusion(pipe, 128, 50)


@pytest.mark.slow
@pytest.mark.parametrize(("latent", "sides"), [((64, 64), (64, 32, 16, 8)), ((24, 40), None)])
def test_the_layers_and_their_maps_are_the_protocols(full, latent, sides):
    assert sum(parameter.numel() for parameter in full.pipe.unet.parameters()) == 859_520_964

    def shape(call):
        return call.heads, call.q.shape[-2], call.k.shape[-2]

    with capture(full.pipe.unet, layers="*.attn1", reduce=shape) as tape:
        noise = full.predict(torch.zeros(1, 4, *latent), 300, torch.zeros(1, 77, 768))
    assert noise.shape == (1, 4, *latent)
    layers = full.layers()
    assert list(tape.layers) == list(layers)
    assert Counter(layers.values()) == {1: 5, 2: 5, 4: 5, 8: 1}
    for path in layers:
        rows, columns = full.map_size(path, latent)
        assert tape[path] == (8, rows * columns, rows * columns)
    guided = full.layer("up_blocks.2.attentions.2")
    assert sides is None or tape[guided] == (8, 1024, 1024)
    assert sides is None or {full.map_size(path, latent) for path in layers} == {(side, side) for side in sides}
