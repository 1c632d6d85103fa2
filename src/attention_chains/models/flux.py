"""FLUX: the adapter of `FluxPipeline` folders, from the bundled miniature to FLUX.1-schnell and -dev.

The sequence is `[text, image]` in dual- and single-stream blocks, text padding included: padding tokens take part in
attention and are states of the chain (protocol 1.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from attention_chains.capture import Call, MeanAttention, capture
from attention_chains.models.assets import first_line, local_folder
from attention_chains.models.errors import AssetError
from attention_chains.models.joint_attention import JointAttention
from attention_chains.models.layouts import PIPELINE
from attention_chains.models.quiet import quiet_loading
from attention_chains.models.words import clip_word_distribution, word_distribution

LAYOUT = PIPELINE
STREAMS = {"dual": "transformer_blocks.{}.attn", "single": "single_transformer_blocks.{}.attn"}


def load(
    source: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    image_size: int,
    text_length: int,
    steps: int,
    layers: Mapping[str, Sequence[int]],
    guidance: float | None = None,
) -> Flux:
    """Load a FLUX pipeline folder or repository.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision the model runs; attention is read in fp32 whatever the precision.
    image_size
        Side of the square input, pixels.
    text_length
        T5 tokens.
    steps
        Steps of the sampling schedule, of which those at or below the noise level are run.
    layers
        Blocks to average, by stream ("dual", "single").
    guidance
        Guidance fed to a guidance-distilled model (FLUX.1-dev); None for others.

    Raises
    ------
    AssetError
        The weights cannot be loaded, or the model does not fit the other settings.
    """
    try:
        with quiet_loading():
            pipe = FluxPipeline.from_pretrained(
                local_folder(source, revision), dtype=dtype, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise AssetError(f"{source} is no FLUX pipeline that can be loaded: {first_line(error)}") from error
    _check_size(pipe, source, image_size)
    _check_guidance(pipe, source, guidance)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    paths = {stream: _paths(pipe.transformer, source, stream, blocks) for stream, blocks in layers.items()}
    return Flux(pipe, image_size, text_length, steps, paths, guidance)


def _check_size(pipe: FluxPipeline, source: str, side: int) -> None:
    patch = 2 * pipe.vae_scale_factor  # 2 x 2 latents are one token
    if side % patch:
        raise AssetError(f"model.image_size is {side}, but {source} needs a multiple of {patch} pixels: choose one.")


def _check_guidance(pipe: FluxPipeline, source: str, guidance: float | None) -> None:
    if pipe.transformer.config.guidance_embeds and guidance is None:
        raise AssetError(f"{source} is guidance-distilled, as FLUX.1-dev is: set model.guidance, for example to 3.5.")


def _paths(transformer: torch.nn.Module, source: str, stream: str, blocks: Sequence[int]) -> list[str]:
    present = len(transformer.single_transformer_blocks if stream == "single" else transformer.transformer_blocks)
    if not blocks:
        raise AssetError(f"model.{stream}_layers names no block of {source}: choose from 0..{present - 1}.")
    if max(blocks) >= present:
        raise AssetError(
            f"model.{stream}_layers names block {max(blocks)}, but {source} has {present} {stream}-stream blocks: "
            f"choose from 0..{present - 1}."
        )
    return [STREAMS[stream].format(block) for block in blocks]


@dataclass
class Flux:
    """A loaded FLUX pipeline that hands out its attention.

    Attributes
    ----------
    pipe : FluxPipeline
        The diffusers pipeline; it also generates.
    image_size, text_length, steps, guidance
        See `load`.
    layers : mapping of str to list of str
        Module paths of the attention to average, by stream.
    """

    pipe: FluxPipeline
    image_size: int
    text_length: int
    steps: int
    layers: Mapping[str, Sequence[str]]
    guidance: float | None = None

    @torch.inference_mode()
    def attention(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        seeds: Sequence[int],
        noise: float = 0.5,
        pooled: str = "real",
        streams: Sequence[str] = ("dual",),
    ) -> JointAttention:
        """Noise images, denoise them for the rest of the schedule, and average the attention on the way.

        Parameters
        ----------
        images
            B arrays (H, W, 3) uint8; squashed to the square input, bicubic.
        prompts
            B texts.
        seeds
            B seeds of the noise: the same seed gives the same noise in any batch and on any device.
        noise
            Flow-matching time t in (0, 1]. The first pass is at t, the others at the schedule's steps below it (paper,
            section 5.1).
        pooled
            "real": CLIP's pooled vector of the prompt; "zero": zeros, as Concept Attention's code has it.
        streams
            Which streams to capture; each costs one fp32 accumulator (B, heads, n, n) and no pass of its own.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self._encode(images, generators)  # (B, C, h, w)
        height, width = latents.shape[-2] // 2, latents.shape[-1] // 2
        sigmas = self._sigmas(noise, height * width)
        latents = torch.lerp(latents, self._noise_like(latents, generators), sigmas[0].to(latents))
        text = self._embed(prompts, pooled)
        means = {stream: MeanAttention() for stream in streams}
        route = {path: means[stream] for stream in streams for path in self.layers[stream]}

        def add(call: Call) -> None:
            route[call.layer](call)

        with capture(self.pipe.transformer, layers=list(route), reduce=add):
            self._denoise(latents, text, sigmas)
        return JointAttention(
            {stream: mean.chain() for stream, mean in means.items()}, self.text_length, (height, width)
        )

    def start(self, prompts: Sequence[str], words: Sequence[str], rule: str = "t5") -> Tensor:
        """States that start from a word of each prompt, over the text tokens alone: (B, text_length) fp32.

        Parameters
        ----------
        prompts, words
            B texts and a word of each.
        rule
            "t5": the word's own tokens; "clip": the official code's index (protocol 1.3).

        Raises
        ------
        DataError
            When a word is not in its prompt or beyond the text sequence.
        """
        tokenizer, find = {
            "t5": (self.pipe.tokenizer_2, word_distribution),
            "clip": (self.pipe.tokenizer, clip_word_distribution),
        }[rule]
        rows = [find(tokenizer, prompt, word, self.text_length) for prompt, word in zip(prompts, words, strict=True)]
        return torch.stack(rows).to(self.pipe.device)

    def _encode(self, images: Sequence[np.ndarray], generators: Sequence[torch.Generator]) -> Tensor:
        side = (self.image_size, self.image_size)
        pixels = np.stack(
            [np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC)) for image in images]
        )
        vae = self.pipe.vae
        batch = torch.from_numpy(pixels).to(self.pipe.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = vae.encode(batch.to(vae.dtype)).latent_dist
        sample = posterior.mean + posterior.std * self._noise_like(posterior.mean, generators)
        return ((sample - vae.config.shift_factor) * vae.config.scaling_factor).float()

    def _noise_like(self, tensor: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Gaussian noise, drawn on the host sample by sample so that neither batch nor device changes it."""
        rows = [torch.randn(tensor.shape[1:], generator=generator) for generator in generators]
        return torch.stack(rows).to(tensor)

    def _sigmas(self, noise: float, image_tokens: int) -> Tensor:
        """Noise levels of the passes and the final 0: (passes + 1,)."""
        scheduler = self.pipe.scheduler
        shift = None
        if scheduler.config.use_dynamic_shifting:
            shift = _shift(image_tokens, scheduler.config)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / self.steps, self.steps), mu=shift)
        below = scheduler.sigmas[scheduler.sigmas < noise - 1e-6]  # ends with 0
        return torch.cat([torch.tensor([noise], dtype=below.dtype), below.cpu()])

    def _embed(self, prompts: Sequence[str], pooled: str) -> dict[str, Tensor]:
        embeds, vector, ids = self.pipe.encode_prompt(
            list(prompts), None, device=self.pipe.device, max_sequence_length=self.text_length
        )
        vector = torch.zeros_like(vector) if pooled == "zero" else vector
        return {"encoder_hidden_states": embeds, "pooled_projections": vector, "txt_ids": ids}

    def _denoise(self, latents: Tensor, text: Mapping[str, Tensor], sigmas: Tensor) -> Tensor:
        """Euler steps of the probability flow from `sigmas[0]` to 0; latents (B, C, h, w) in, packed latents out."""
        batch, channels, height, width = latents.shape
        transformer, device = self.pipe.transformer, latents.device
        packed = self.pipe._pack_latents(latents, batch, channels, height, width)  # (B, h/2 w/2, 4 C)
        ids = self.pipe._prepare_latent_image_ids(batch, height // 2, width // 2, device, transformer.dtype)
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((batch,), float(self.guidance), device=device)
        for now, then in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
            velocity = transformer(
                hidden_states=packed.to(transformer.dtype),
                timestep=torch.full((batch,), now, device=device, dtype=transformer.dtype),
                guidance=guidance,
                img_ids=ids,
                **text,
            ).sample
            packed = packed + (then - now) * velocity.float()
        return packed


def _shift(image_tokens: int, config: Mapping[str, float]) -> float:
    """Resolution-dependent shift of FLUX.1-dev's schedule: linear in the number of image tokens."""
    first, last = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (last - first)
    return config["base_shift"] + slope * (image_tokens - first)
