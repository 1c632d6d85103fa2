"""In half precision the model runs and its attention is read in fp32."""

from __future__ import annotations

import pytest
import torch


def attention(flux, scenes):
    images, prompts = [scene.image for scene in scenes], [scene.prompt for scene in scenes]
    return flux.attention(images, prompts, [1, 2, 3], streams=("dual", "single"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_close_to_the_full_one(load_flux, flux, scenes, dtype):
    half, full = attention(load_flux(dtype=dtype), scenes), attention(flux, scenes)
    for stream in ("dual", "single"):
        found, expected = half.heads(stream).matrix(), full.heads(stream).matrix()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]), atol=1e-6, rtol=0)
        assert (found - expected).abs().sum(-1).max() < 0.2  # L1 of a row, of at most 2
        assert (found - expected).abs().sum(-1).max() > 0


def test_every_part_of_the_model_is_in_the_precision_asked_for(load_flux):
    pipe = load_flux(dtype=torch.bfloat16).pipe
    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.bfloat16}
