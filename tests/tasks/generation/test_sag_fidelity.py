"""The guided sampler beside diffusers' own pipelines, and what must hold for any layer and any size."""

from __future__ import annotations

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from diffusers.pipelines.deprecated.stable_diffusion_sag import StableDiffusionSAGPipeline

from attention_chains import methods, models
from attention_chains.config import ConfigError
from attention_chains.models import AssetError
from attention_chains.tasks import guidance, sampling
from attention_chains.tasks.sampling import Guidance, sample

PROMPTS = ["a red three", "a photo of a blue seven", ""]
MIDDLE, DECODER = "mid_block.attentions.0", "up_blocks.2.attentions.2"
SIZES = [(32, 32), (24, 40)]  # of images, pixels: latents of half of that
NONE, COLUMNS, RANK = (methods.bind(name, {}, kind="saliency") for name in ("none", "sag_column_sum", "sag_tokenrank"))


@pytest.fixture
def passes(tiny, monkeypatch):
    """Batch sizes of the UNet's passes."""
    seen, forward = [], tiny.pipe.unet.forward

    def watched(latents, *args, **kwargs):
        seen.append(len(latents))
        return forward(latents, *args, **kwargs)

    monkeypatch.setattr(tiny.pipe.unet, "forward", watched)
    return seen


@pytest.fixture
def masks(monkeypatch):
    """Masks (B, n) that were used, step by step."""
    seen, original = [], guidance.saliency_mask

    def watched(*args):
        seen.append(original(*args))
        return seen[-1]

    monkeypatch.setattr(sampling.guidance, "saliency_mask", watched)
    return seen


def diffusers_sample(kind, tiny, latents, cfg, **settings):
    """Latents that a pipeline of diffusers makes of ours and of its own copy of the UNet's scheduler."""
    pipe, extra = tiny.pipe, {} if kind is StableDiffusionPipeline else {"image_encoder": None}
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    theirs = kind(
        **parts,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **extra,
    )
    theirs.set_progress_bar_config(disable=True)
    height, width = (2 * side for side in latents.shape[-2:])
    processors = pipe.unet.attn_processors
    try:
        return theirs(
            PROMPTS,
            height,
            width,
            num_inference_steps=tiny.steps,
            guidance_scale=cfg,
            latents=latents.clone(),
            output_type="latent",
            return_dict=False,
            **settings,
        )[0]
    finally:
        pipe.unet.set_attn_processor(processors)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("size", SIZES)
def test_the_mid_block_protocol_is_diffusers_own_pipeline(tiny, masks, size, cfg):
    latents = tiny.noise([1, 2, 3], size)
    ours = sample(tiny, latents, PROMPTS, Guidance(MIDDLE, scale=0.75, cfg=cfg), COLUMNS)
    theirs = diffusers_sample(StableDiffusionSAGPipeline, tiny, latents, cfg, sag_scale=0.75)
    vanilla = diffusers_sample(StableDiffusionPipeline, tiny, latents, cfg)
    torch.testing.assert_close(ours.latents, theirs, rtol=0, atol=1e-4)
    assert (ours.latents - vanilla).abs().max() > 0.1  # guidance does something here
    assert all(mask.any(-1).all() and not mask.all(-1).any() for mask in masks) and len(masks) == tiny.steps + 1


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_mid_block_protocol_is_diffusers_own_pipeline_on_the_miniature(cfg):
    settings = {"revision": None, "device": torch.device("cpu"), "dtype": torch.float32, "image_size": 64, "steps": 6}
    mini = models.load("sd15", source="bundled:sd15", **settings)
    latents = mini.noise([1, 2, 3])
    ours = sample(mini, latents, PROMPTS, Guidance(MIDDLE, scale=0.75, cfg=cfg), COLUMNS)
    theirs = diffusers_sample(StableDiffusionSAGPipeline, mini, latents, cfg, sag_scale=0.75)
    torch.testing.assert_close(ours.latents, theirs, rtol=0, atol=1e-4)
    assert (ours.latents - diffusers_sample(StableDiffusionPipeline, mini, latents, cfg)).abs().max() > 0.01


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_without_guidance_it_is_diffusers_plain_pipeline(tiny, cfg):
    latents = tiny.noise([1, 2, 3])
    ours = sample(tiny, latents, PROMPTS, Guidance(DECODER, cfg=cfg), NONE)
    theirs = diffusers_sample(StableDiffusionPipeline, tiny, latents, cfg)
    torch.testing.assert_close(ours.latents, theirs, rtol=0, atol=1e-4)
    assert ours.masked.tolist() == [0, 0, 0]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("saliency", [COLUMNS, RANK], ids=["column_sum", "tokenrank"])
def test_a_scale_of_zero_is_the_plain_sampler_bit_for_bit_and_pass_for_pass(tiny, passes, saliency, cfg):
    latents = tiny.noise([1, 2, 3])
    plain = sample(tiny, latents, PROMPTS, Guidance(DECODER, cfg=cfg), NONE)
    plainly = list(passes)
    guided = sample(tiny, latents, PROMPTS, Guidance(DECODER, scale=0, cfg=cfg), saliency)
    assert torch.equal(guided.latents, plain.latents)
    assert passes == 2 * plainly and guided.masked.tolist() == [0, 0, 0]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_costs_one_more_pass_a_step(tiny, passes, cfg):
    for saliency in (COLUMNS, RANK):
        passes.clear()
        sample(tiny, tiny.noise([1, 2]), PROMPTS[:2], Guidance(DECODER, cfg=cfg), saliency)
        assert passes == [2] * (tiny.steps + 1) * (2 if cfg == 1 else 3)


@pytest.mark.parametrize("size", [*SIZES, (28, 46)])  # 14 x 23, 7 x 12, 4 x 6: the UNet rounds up
def test_any_layer_guides_latents_of_any_size(tiny, masks, size):
    latents = tiny.noise([1], size)
    for layer in tiny.layers():
        masks.clear()
        done = sample(tiny, latents, [""], Guidance(layer, cap=0.4), COLUMNS, steps=1)
        rows, columns = tiny.map_size(layer, latents.shape[-2:])
        assert done.latents.shape == latents.shape and done.latents.isfinite().all()
        assert all(mask.shape == (1, rows * columns) for mask in masks)


def test_the_mask_lies_where_the_layers_attention_goes(tiny, monkeypatch):
    """Rows and columns of a map that is not square are not mixed up: tokens of the right half are the right half."""
    seen, latents = [], tiny.noise([1], (32, 64))  # 16 x 32 latents, in the middle 4 x 8 tokens
    degraded = guidance.degraded
    monkeypatch.setattr(sampling.guidance, "degraded", lambda *args: (seen.append(args[2]), degraded(*args))[1])

    def right_half(chain, size):
        assert size == (4, 8) and chain.n == 32
        found = torch.zeros(size)
        found[:, 4:] = 2
        return found.view(1, -1)

    done = sample(tiny, latents, [""], Guidance(MIDDLE), right_half, steps=1)
    assert all(not mask[..., :16].any() and mask[..., 16:].all() for mask in seen)
    assert done.masked.item() == 0.5


def test_an_empty_mask_leaves_nothing_to_guide_by(tiny):
    """The degraded latents are then the latents, up to rounding, and their noise is the same."""
    latents = tiny.noise([1, 2])
    empty = sample(tiny, latents, [""] * 2, Guidance(DECODER), lambda chain, size: torch.ones(2, chain.n))
    plain = sample(tiny, latents, [""] * 2, Guidance(DECODER), NONE)
    torch.testing.assert_close(empty.latents, plain.latents, rtol=0, atol=1e-3)


def test_the_cap_holds_and_tokenrank_is_another_mask(tiny, masks):
    latents = tiny.noise([1, 2])
    shares = {}
    for name, saliency in (("columns", COLUMNS), ("rank", RANK)):
        for cap in (None, 0.1):
            done = sample(tiny, latents, [""] * 2, Guidance(DECODER, cap=cap), saliency)
            shares[name, cap] = done.masked.tolist()
    assert max(shares["columns", 0.1] + shares["rank", 0.1]) <= 0.1 < min(shares["columns", None])
    assert shares["columns", None] != shares["rank", None]


def test_the_guiding_branch_is_the_one_without_the_prompt(tiny, monkeypatch):
    contexts, predict = [], type(tiny).predict

    def watched(self, latents, timestep, context):
        contexts.append(context)
        return predict(self, latents, timestep, context)

    monkeypatch.setattr(type(tiny), "predict", watched)
    sample(tiny, tiny.noise([1]), PROMPTS[:1], Guidance(DECODER, cfg=3.0), COLUMNS, steps=1)
    free, prompted = tiny.context([""]), tiny.context(PROMPTS[:1])
    first, second, degraded, *_ = contexts
    assert torch.equal(first, free) and torch.equal(second, prompted) and torch.equal(degraded, free)
    contexts.clear()
    sample(tiny, tiny.noise([1]), PROMPTS[:1], Guidance(DECODER), COLUMNS, steps=1)
    assert all(torch.equal(context, prompted) for context in contexts)


def test_an_unknown_layer_is_told_those_that_exist(tiny):
    with pytest.raises(AssetError, match=r"'up_blocks.9'.*task\.layer.*mid_block\.attentions\.0"):
        sample(tiny, tiny.noise([1]), [""], Guidance("up_blocks.9"), COLUMNS)


def test_latents_too_small_to_blur_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"4 x 16 .* needs 5: set a larger model\.image_size"):
        sample(tiny, tiny.noise([1], (8, 32)), [""], Guidance(DECODER), COLUMNS)
