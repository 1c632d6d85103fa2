"""The adapter's pieces, put together, are diffusers' own pipeline; what it gives of attention is what the UNet does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attention_chains import models
from attention_chains.capture import capture
from attention_chains.models.assets import BUNDLED

PROMPTS = ["a photo of a red three", ""]
SIZES = [(32, 32), (24, 40), (18, 30), (2, 62)]  # latents 16 x 16, 12 x 20, 9 x 15, 1 x 31


@pytest.fixture(scope="session", params=["tiny", "bundled"])
def model(request, sd):
    """The tiny model, and the miniature that is bundled."""
    if request.param == "tiny":
        return sd
    if not (BUNDLED / "sd15").is_dir():
        pytest.skip("the miniature is not bundled")
    settings = {"revision": None, "device": torch.device("cpu"), "dtype": torch.float32}
    return models.load("sd15", source="bundled:sd15", image_size=64, steps=3, **settings)


def sampled(model, prompts, latents):
    """The sampling loop, from the adapter's pieces: the last latents."""
    context, scheduler = model.context(prompts), model.scheduler()
    for timestep in scheduler.timesteps:
        latents = scheduler.step(model.predict(latents, timestep, context), timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize("size", [None, (24, 40)])
def test_the_sampling_loop_is_the_pipelines_own(model, size):
    latents = model.noise([1, 2], size)
    height, width = size or (model.image_size,) * 2
    same = {"height": height, "width": width, "num_inference_steps": model.steps, "guidance_scale": 1.0}
    expected = model.pipe(PROMPTS, latents=latents, output_type="latent", **same).images
    torch.testing.assert_close(sampled(model, PROMPTS, latents), expected, atol=1e-5, rtol=0)


def test_an_image_is_the_pipelines_own_bit_for_bit(model):
    latents = model.noise([3])
    steps = {"num_inference_steps": model.steps, "guidance_scale": 1.0}
    expected = np.array(model.pipe(PROMPTS[:1], latents=latents, **steps).images[0])
    assert np.array_equal(model.decode(sampled(model, PROMPTS[:1], latents))[0], expected)


def test_noise_is_standard_normal_and_every_bit_of_a_seed_counts(model):
    noise = model.noise([8978, 8978 + 2**32, 8978 + 2**63])
    assert noise.shape == (3, 4, model.image_size // 2, model.image_size // 2) and noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize("timestep", [1, 300, torch.tensor(981)])
def test_the_predicted_noise_is_the_unets(model, timestep):
    latents, context = model.noise([1, 2]), model.context(PROMPTS)
    with torch.no_grad():
        expected = model.pipe.unet(latents, timestep, encoder_hidden_states=context).sample
    assert torch.equal(model.predict(latents, timestep, context), expected)


def test_one_context_serves_a_batch(model):
    latents, context = model.noise([1, 2]), model.context([""])
    assert torch.equal(model.predict(latents, 300, context), model.predict(latents, 300, context.repeat(2, 1, 1)))


def test_the_text_embedding_is_the_encoders_last_state_padding_included(model):
    tokens = model.pipe.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.pipe.text_encoder(tokens).last_hidden_state
    torch.testing.assert_close(model.context(PROMPTS), expected, atol=1e-5, rtol=0)


def test_encoding_and_decoding_are_the_image_processors(sd, photographs):
    processor, vae = sd.pipe.image_processor, sd.pipe.vae
    for image in photographs:
        pixels = processor.preprocess(Image.fromarray(image)).contiguous()  # in another memory layout a last bit turns
        with torch.no_grad():
            expected = 0.18215 * vae.encode(pixels).latent_dist.mean
            decoded = vae.decode(expected / 0.18215).sample
        assert torch.equal(sd.encode([image]), expected)
        (seen,) = processor.postprocess(decoded, output_type="pil")
        assert np.array_equal(sd.decode(expected)[0], np.array(seen))


def test_an_image_of_another_size_is_squashed_bicubic(sd, photographs):
    wide = np.kron(photographs[0], np.ones((3, 5, 1))).astype(np.uint8)
    squashed = np.array(Image.fromarray(wide).resize((40, 24), Image.Resampling.BICUBIC))
    found = sd.encode([wide], size=(24, 40))
    assert found.shape == (1, 4, 12, 20) and torch.equal(found, sd.encode([squashed], size=(24, 40)))


def test_posterior_samples_have_the_posteriors_mean_and_spread(sd, photographs):
    seeds = list(range(100))
    pixels = sd.pipe.image_processor.preprocess(Image.fromarray(photographs[0]))
    with torch.no_grad():
        distribution = sd.pipe.vae.encode(pixels).latent_dist
    samples = sd.encode([photographs[0]] * len(seeds), "sample", seeds) / 0.18215
    scores = (samples - distribution.mean) / distribution.std  # (100, 4, 16, 16), unit Gaussian
    assert abs(scores.mean().item()) < 0.01 and abs(scores.std().item() - 1) < 0.01
    assert (scores.std(0) - 1).abs().max() < 0.4 and scores.mean(0).abs().max() < 0.5


def test_posterior_noise_is_not_the_noise_of_the_latents(sd, photographs):
    offset = (sd.encode(photographs[:1], "sample", [7]) - sd.encode(photographs[:1])).flatten()
    correlation = torch.corrcoef(torch.stack([offset, sd.noise([7]).flatten()]))[0, 1]
    assert abs(correlation.item()) < 0.15  # of 1024 numbers


def test_every_self_attention_is_named_in_the_order_in_which_it_runs(model):
    with capture(model.pipe.unet, reduce=lambda call: call.q.shape[-2] == call.k.shape[-2]) as tape:
        model.predict(model.noise([0]), 300, model.context([""]))
    ran = [path for path in tape.layers if path.endswith("attn1")]
    assert list(model.layers()) == ran and all(tape[path] for path in ran)


def test_a_transformer_is_named_by_its_place(model):
    path = "up_blocks.2.attentions.2.transformer_blocks.0.attn1"
    assert model.layer("up_blocks.2.attentions.2") == model.layer(path) == path
    assert model.layer("mid_block") == model.layer("mid_block.attentions.0")
    assert model.layers()[path] == 2 and model.map_size("up_blocks.2.attentions.2", (16, 16)) == (8, 8)


@settings(max_examples=6)
@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_map_sizes_are_those_the_unet_has_at_any_size(sd, height, width):
    hidden = {}

    def keep(path):
        return lambda _, inputs: hidden.__setitem__(path, tuple(inputs[0].shape[-2:]))

    transformers = {path: sd.pipe.unet.get_submodule(path.split(".transformer_blocks")[0]) for path in sd.layers()}
    hooks = [module.register_forward_pre_hook(keep(path)) for path, module in transformers.items()]
    try:
        noise = sd.predict(torch.zeros(1, 4, height, width), 300, sd.context([""]))
    finally:
        for hook in hooks:
            hook.remove()
    assert noise.shape == (1, 4, height, width)
    assert hidden == {path: sd.map_size(path, (height, width)) for path in sd.layers()}


@pytest.mark.parametrize("size", SIZES)
def test_the_captured_attention_is_what_the_layers_compute_with(sd, size):
    """softmax(q k^T) v of the capture, through the layer's own output projection, is the layer's output."""
    outputs = {}
    modules = {path: sd.pipe.unet.get_submodule(path) for path in sd.layers()}
    hooks = [
        module.register_forward_hook(lambda _, __, output, path=path: outputs.__setitem__(path, output))
        for path, module in modules.items()
    ]
    try:
        with capture(sd.pipe.unet, layers=list(modules)) as tape:
            sd.predict(sd.noise([0, 1], size), 300, sd.context(PROMPTS))
    finally:
        for hook in hooks:
            hook.remove()
    assert set(tape.layers) == set(modules)
    for path, module in modules.items():
        call = tape[path]
        height, width = sd.map_size(path, (size[0] // 2, size[1] // 2))
        assert call.q.shape[:3] == (2, 2, height * width)
        mixed = (call.matrix().double() @ call.v.double()).transpose(1, 2).flatten(2).float()
        torch.testing.assert_close(module.to_out[0](mixed), outputs[path], atol=1e-5, rtol=1e-5)


def test_another_scheduler_of_the_folder_is_used(new_sd, load_sd, tmp_path):
    ddim = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    new_sd(ddim).save_pretrained(tmp_path)
    model = load_sd(source=str(tmp_path))
    assert isinstance(model.scheduler(), DDIMScheduler)
    expected = model.pipe([""], latents=model.noise([1]), output_type="latent", num_inference_steps=4, guidance_scale=1)
    torch.testing.assert_close(sampled(model, [""], model.noise([1])), expected.images, atol=1e-5, rtol=0)
