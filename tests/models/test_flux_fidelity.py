"""The captured attention is what an independent computation gives: protocol 1.3, written out in the test."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image

SHIFTED = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
SIDE, TEXT = 32, 16


@dataclass
class Softmax:
    """An attention processor that keeps softmax(q k^T / sqrt(d)) of every call, in float64, and computes with it."""

    seen: dict = field(default_factory=dict)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, mask=None, image_rotary_emb=None):
        assert mask is None
        parts = [[layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v)]]
        norms = [(attn.norm_q, attn.norm_k)]
        if encoder_hidden_states is not None:  # text comes first
            layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            parts.insert(0, [layer(encoder_hidden_states) for layer in layers])
            norms.insert(0, (attn.norm_added_q, attn.norm_added_k))
        heads = [[x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in part] for part in parts]
        q = torch.cat([norm(part[0]) for part, (norm, _) in zip(heads, norms, strict=True)], dim=2)
        k = torch.cat([norm(part[1]) for part, (_, norm) in zip(heads, norms, strict=True)], dim=2)
        v = torch.cat([part[2] for part in heads], dim=2)
        q, k = (rotated(x.double(), *image_rotary_emb) for x in (q, k))
        matrix = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # (B, H, n, n)
        self.seen.setdefault(attn, []).append(matrix)
        out = (matrix @ v.double()).transpose(1, 2).flatten(2).to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return out
        text, image = out.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return attn.to_out[0](image), attn.to_add_out(text)


def rotated(x, cos, sin):
    """Rotary embedding: pairs of channels (a, b) -> (a cos - b sin, b cos + a sin)."""
    a, b = x[..., ::2], x[..., 1::2]
    return x * cos.double() + torch.stack([-b, a], -1).flatten(-2) * sin.double()


def schedule(pipe, steps, noise):
    """diffusers' own scheduler, begun at the noise level and going on at its steps below."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    shift = None
    if scheduler.config.use_dynamic_shifting:
        config = scheduler.config
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        shift = calculate_shift((SIDE // 4) ** 2, *(config[name] for name in names))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    levels = [noise, *(level for level in scheduler.sigmas.tolist() if level < noise)]
    scheduler.sigmas = torch.tensor(levels)
    scheduler.timesteps = 1000 * scheduler.sigmas[:-1]
    scheduler.set_begin_index(0)
    return scheduler


@torch.inference_mode()
def reference(pipe, sample, seed, steps=4, noise=0.5, pooled=None, guidance=None, blocks=None):
    """Mean attention (H, n, n) float64 by stream, the times of the passes, and the denoised tokens, one sample."""
    generator = torch.Generator().manual_seed(seed)
    pixels = np.asarray(Image.fromarray(sample.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    posterior = pipe.vae.encode(image).latent_dist
    latent = posterior.mean + posterior.std * torch.randn(posterior.mean.shape[1:], generator=generator)
    latent = (latent - 0.1159) * 0.3611
    scheduler = schedule(pipe, steps, noise)
    noisy = noise * torch.randn(latent.shape[1:], generator=generator) + (1 - noise) * latent
    _, channels, height, width = noisy.shape
    grid = noisy.view(channels, height // 2, 2, width // 2, 2).permute(1, 3, 0, 2, 4)
    tokens = grid.reshape(1, height // 2 * width // 2, channels * 4)
    t5 = pipe.tokenizer_2(sample.prompt, padding="max_length", max_length=TEXT, return_tensors="pt").input_ids
    clip = pipe.tokenizer(sample.prompt, padding="max_length", max_length=24, return_tensors="pt").input_ids
    vector = pipe.text_encoder(clip).pooler_output
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()
    softmax, times = Softmax(), []
    transformer = copy.deepcopy(pipe.transformer)
    transformer.set_attn_processor(softmax)
    for step in scheduler.timesteps:
        times.append(step.item() / 1000)
        velocity = transformer(
            hidden_states=tokens,
            timestep=step[None] / 1000,
            encoder_hidden_states=pipe.text_encoder_2(t5).last_hidden_state,
            pooled_projections=vector if pooled is None else pooled.expand_as(vector),
            img_ids=places,
            txt_ids=torch.zeros(TEXT, 3),
            guidance=None if guidance is None else torch.tensor([guidance]),
        ).sample
        tokens = scheduler.step(velocity, step, tokens).prev_sample
    stacks = {"dual": transformer.transformer_blocks, "single": transformer.single_transformer_blocks}
    means = {}
    for stream, numbers in (blocks or {"dual": [0, 1], "single": [0, 1]}).items():
        calls = [matrix for number in numbers for matrix in softmax.seen[stacks[stream][number].attn]]
        assert len(calls) == len(numbers) * len(times)
        means[stream] = torch.cat(calls).mean(0)
    return means, times, tokens


@pytest.fixture
def passes(flux, monkeypatch):
    """The times of the transformer's passes, in order."""
    times = []
    forward = type(flux.pipe.transformer).forward

    def watched(self, *args, **kwargs):
        times.append(kwargs["timestep"].flatten()[0].item())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(flux.pipe.transformer), "forward", watched)
    return times


def attention(flux, sample, seed=5, **options):
    return flux.attention([sample.image], [sample.prompt], [seed], streams=("dual", "single"), **options)


def assert_same(found, expected):
    for stream, matrix in expected.items():
        torch.testing.assert_close(found.heads(stream).matrix()[0].double(), matrix, atol=1e-5, rtol=0)


@pytest.mark.parametrize("index", range(3))
def test_the_mean_over_layers_and_passes_is_that_of_the_explicit_softmax(flux, scenes, index):
    expected, times, _ = reference(flux.pipe, scenes[index], seed=5)
    found = attention(flux, scenes[index])
    assert times == [0.5, 0.25] and (found.text, found.grid) == (16, (8, 8))
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("steps", "noise", "times"),
    [(4, 0.6, [0.6, 0.5, 0.25]), (4, 1, [1, 0.75, 0.5, 0.25]), (5, 0.4, [0.4, 0.2]), (4, 0.1, [0.1])],
)
def test_the_first_pass_is_at_the_noise_and_the_others_at_the_steps_below(load_flux, scenes, steps, noise, times):
    flux = load_flux(steps=steps)
    expected, seen, _ = reference(flux.pipe, scenes[0], 5, steps, noise)
    assert seen == pytest.approx(times)
    assert_same(attention(flux, scenes[0], noise=noise), expected)


def test_schnells_passes_are_at_a_half_and_a_quarter_and_another_stream_adds_none(flux, scenes, passes):
    attention(flux, scenes[0])
    assert passes == [0.5, 0.25]
    flux.attention([scenes[0].image], [scenes[0].prompt], [5])
    assert passes == [0.5, 0.25] * 2


def test_a_guidance_distilled_model_with_a_shifted_schedule_is_followed_too(new_flux, load_flux, scenes, tmp_path):
    new_flux(schedule=SHIFTED, guidance_embeds=True).save_pretrained(tmp_path)
    flux = load_flux(source=str(tmp_path), guidance=3.5)
    expected, times, _ = reference(flux.pipe, scenes[0], 5, noise=0.7, guidance=3.5)
    assert times[1:] != pytest.approx([0.5, 0.25])
    assert_same(attention(flux, scenes[0], noise=0.7), expected)
    other = attention(load_flux(source=str(tmp_path), guidance=1.0), scenes[0], noise=0.7)
    assert (other.heads().matrix()[0] - expected["dual"]).abs().max() > 1e-4


def test_the_steps_are_those_of_diffusers_own_scheduler(flux, scenes, monkeypatch):
    denoised = []
    denoise = type(flux)._denoise
    monkeypatch.setattr(type(flux), "_denoise", lambda *args: denoised.append(denoise(*args)))
    attention(flux, scenes[0])
    _, _, tokens = reference(flux.pipe, scenes[0], seed=5)
    torch.testing.assert_close(denoised[0], tokens, atol=1e-5, rtol=0)


def test_pooled_zero_is_a_zero_vector_and_matters(flux, scenes):
    expected, _, _ = reference(flux.pipe, scenes[0], seed=5, pooled=torch.zeros(1))
    zero = attention(flux, scenes[0], pooled="zero")
    assert_same(zero, expected)
    assert (zero.heads().matrix() - attention(flux, scenes[0]).heads().matrix()).abs().max() > 1e-4


def test_only_the_blocks_that_are_named_are_averaged(load_flux, scenes):
    chosen = {"dual": [1], "single": [0]}
    flux = load_flux(layers=chosen)
    expected, _, _ = reference(flux.pipe, scenes[0], seed=5, blocks=chosen)
    assert_same(attention(flux, scenes[0]), expected)
