"""Stable Diffusion 1: the adapter of `StableDiffusionPipeline` folders, from the bundled miniature to SD 1.4 and 1.5.

Latents are (B, 4, h, w) fp32 of any size the networks take, square or not; the networks run in the precision they were
loaded in. What belongs to a sample (its noise, its image) depends on its seed alone, not on its batch or its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from attention_chains.data.errors import DataError
from attention_chains.models.assets import first_line, local_folder
from attention_chains.models.errors import AssetError
from attention_chains.models.layouts import STABLE_DIFFUSION
from attention_chains.models.quiet import quiet_loading

LAYOUT = STABLE_DIFFUSION
_SELF_ATTENTION = ".transformer_blocks.0.attn1"
_OF_THE_POSTERIOR = 0x9E3779B9  # sets a sample's posterior noise apart from the noise of its latents
_NOT_A_PIPELINE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def load(
    source: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    image_size: int,
    steps: int = 50,
) -> StableDiffusion:
    """Load a Stable Diffusion pipeline folder or repository, without its safety checker.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision the networks run; attention is read in fp32 whatever the precision.
    image_size
        Side of the square image where no other size is given, pixels.
    steps
        Steps of the sampling schedule.

    Raises
    ------
    AssetError
        The weights cannot be loaded, the model predicts no noise, or it does not fit the other settings.
    """
    folder = local_folder(source, revision, LAYOUT)
    try:
        with quiet_loading():
            pipe = StableDiffusionPipeline.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,  # it blacks images out, and they would enter FID
                feature_extractor=None,
                requires_safety_checker=False,
            )
    except _NOT_A_PIPELINE as error:
        raise AssetError(f"{source} is no Stable Diffusion pipeline that can be loaded: {first_line(error)}") from error
    _check_scheduler(pipe, source)
    _check_networks(pipe, source)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.set_attn_processor(AttnProcessor2_0())  # the one that a capture sees
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.eval().requires_grad_(False)
    _check_size(pipe.vae_scale_factor, (image_size, image_size))
    model = StableDiffusion(pipe, image_size, steps)
    model.scheduler()  # refuses what `steps` cannot be
    pipe.to(device)
    return model


def _check_scheduler(pipe: StableDiffusionPipeline, source: str) -> None:
    """Only schedules that draw no noise and whose states are sqrt(abar) x0 + sqrt(1 - abar) eps (protocol 2)."""
    scheduler = pipe.scheduler
    kind, predicted = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    if predicted != "epsilon":
        raise AssetError(
            f"The scheduler of {source} is for a model that predicts '{predicted}', but guidance needs the noise "
            "(epsilon): choose another model.source."
        )
    if not isinstance(scheduler, PNDMScheduler | DDIMScheduler) or not scheduler.config.get("skip_prk_steps", True):
        raise AssetError(
            f"The scheduler of {source} is {kind}, but only PNDMScheduler with skip_prk_steps and DDIMScheduler are "
            "used here: put the config of one of them into its folder 'scheduler'."
        )


def _check_networks(pipe: StableDiffusionPipeline, source: str) -> None:
    latents, taken = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    if latents != taken:
        raise AssetError(
            f"The UNet of {source} takes {taken} channels, but its autoencoder gives {latents}: choose a model.source "
            "for text to image, not for inpainting."
        )
    text, width = pipe.text_encoder.config.hidden_size, pipe.unet.config.cross_attention_dim
    if text != width:
        raise AssetError(
            f"The UNet of {source} reads text of width {width}, but its text encoder gives {text}: copy or download "
            "all its parts again."
        )


def _check_size(scale: int, size: tuple[int, int]) -> None:
    height, width = size
    if min(size) < scale or height % scale or width % scale:
        raise AssetError(
            f"An image of {height} x {width} pixels is no whole number of latents, which are {scale} pixels wide: set "
            f"model.image_size to a multiple of {scale}."
        )


@dataclass
class StableDiffusion:
    """A loaded Stable Diffusion pipeline, in the pieces that guidance and segmentation are made of.

    `capture(model.pipe.unet, layers=[...])` reads its attention; `layers` names it. No method records a gradient.

    Attributes
    ----------
    pipe : StableDiffusionPipeline
        The diffusers pipeline; it also generates. There is no safety checker.
    image_size : int
        Side of the square image where no other size is given, pixels.
    steps : int
        Steps of the sampling schedule.
    """

    pipe: StableDiffusionPipeline
    image_size: int
    steps: int

    @torch.no_grad()
    def context(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (B, tokens, width) of B prompts, padding included; "" is the unconditional one.

        On the model's device and in its dtype. A prompt longer than the text encoder's sequence is cut, with a warning.
        """
        device = self.pipe.device
        different = dict.fromkeys(prompts)  # each alone: neither the batch nor its order changes a bit
        embedded = {prompt: self.pipe.encode_prompt([prompt], device, 1, False)[0] for prompt in different}
        return torch.cat([embedded[prompt] for prompt in prompts])

    def noise(self, seeds: Sequence[int], size: tuple[int, int] | None = None) -> Tensor:
        """Unit Gaussian latents (B, 4, h, w) fp32, drawn on the host sample by sample, then moved.

        Parameters
        ----------
        seeds
            B seeds, from 0 to 2^64 - 1; all of their bits count.
        size
            Height and width of the image, pixels; None: `image_size` both.

        Raises
        ------
        AssetError
            The size is no whole number of latents.
        """
        return _gaussian((self.pipe.unet.config.in_channels, *self._latent_size(size)), seeds).to(self.pipe.device)

    def scheduler(self, steps: int | None = None) -> PNDMScheduler | DDIMScheduler:
        """Make a scheduler of the folder's kind with its timesteps set, on the host: no state passes between batches.

        Parameters
        ----------
        steps
            Steps; None: `self.steps`. PNDM gives one timestep more.

        Raises
        ------
        AssetError
            There are not so many timesteps, or no step at all.
        """
        own, wanted = self.pipe.scheduler, self.steps if steps is None else steps
        most = own.config.num_train_timesteps - 1
        if not 1 <= wanted <= most:
            raise AssetError(f"model.steps is {wanted}, but the model's schedule takes 1 to {most} steps: choose one.")
        fresh = type(own).from_config(own.config)
        fresh.set_timesteps(wanted)  # on the host, where a step indexes its tables without waiting for the device
        return fresh

    @torch.no_grad()
    def encode(
        self,
        images: Sequence[np.ndarray],
        posterior: str = "mean",
        seeds: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Images to latents (B, 4, h, w) fp32, times `vae.config.scaling_factor`; one pass a sample.

        Parameters
        ----------
        images
            B arrays (H, W, 3) uint8; squashed to the size, bicubic, where they have another one.
        posterior
            "mean" (protocol 3.1), or "sample": drawn with `seeds`, on the host, from other noise than `noise` gives.
        seeds
            B seeds for "sample".
        size
            Height and width of the input, pixels; None: `image_size` both.

        Raises
        ------
        DataError
            An array is no such image, or the seeds do not go with `posterior` and the images.
        AssetError
            The size is no whole number of latents, or the autoencoder gives NaN or infinity.
        """
        _check_posterior(posterior, seeds, len(images))
        shape = (self.pipe.vae.config.latent_channels, *self._latent_size(size))
        offsets: Sequence[Tensor | None] = [None] * len(images)
        if posterior == "sample":
            offsets = list(_gaussian(shape, [seed ^ _OF_THE_POSTERIOR for seed in seeds]).to(self.pipe.device))
        height, width = (side * self.pipe.vae_scale_factor for side in shape[1:])
        latents = [
            self._encode(_squash(image, height, width), offset) for image, offset in zip(images, offsets, strict=True)
        ]
        return torch.cat(latents)

    def _encode(self, image: Tensor, offset: Tensor | None) -> Tensor:
        """One image (1, 3, H, W) uint8, and what of its posterior's spread to add (4, h, w); None: nothing."""
        vae = self.pipe.vae
        pixels = 2 * (image.to(self.pipe.device).float() / 255) - 1
        distribution = vae.encode(pixels.to(self._dtype)).latent_dist
        latent = distribution.mean.float()
        if offset is not None:
            latent = latent + distribution.std.float() * offset
        return self._finite(latent, "encoder") * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, 4, h, w) to images (B, H, W, 3) uint8 on the host; one pass a sample, so that no batch shows.

        Raises
        ------
        AssetError
            The decoder gives NaN or infinity, as it does for latents that hold any.
        """
        return np.stack([self._decode(latent[None]) for latent in latents])

    def _decode(self, latent: Tensor) -> np.ndarray:
        vae = self.pipe.vae
        pixels = vae.decode((latent / vae.config.scaling_factor).to(self._dtype)).sample.float()  # (1, 3, H, W)
        levels = 255 * (self._finite(pixels, "decoder") * 0.5 + 0.5).clamp(0, 1)
        return levels[0].round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()

    def _finite(self, values: Tensor, part: str) -> Tensor:
        if not values.isfinite().all():
            dtype = str(self._dtype).removeprefix("torch.")
            raise AssetError(
                f"The {part} of the autoencoder gives NaN or infinite values in {dtype}: set model.dtype to float32, "
                "and if it still does, copy or download the weights again."
            )
        return values

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """Predicted noise eps (B, 4, h, w) fp32, by one pass of the UNet that a capture can watch.

        Parameters
        ----------
        latents
            (B, 4, h, w), of any floating dtype.
        timestep
            A timestep of the schedule: a number, or a tensor of one, on the host where nothing is to wait for it.
        context
            (B, tokens, width) of `context`, or (1, tokens, width) for all of them.
        """
        unet, batch = self.pipe.unet, len(latents)
        times = torch.full((batch,), int(timestep), device=latents.device)
        text = context.expand(batch, -1, -1)
        return unet(latents.to(self._dtype), times, encoder_hidden_states=text).sample.float()

    def layer(self, name: str) -> str:
        """Path of a self-attention layer: "up_blocks.2.attentions.2" is its transformer's attn1; a path is its own.

        Raises
        ------
        AssetError
            The name is of none, or of several; those there are are listed.
        """
        paths = self.layers()
        found = [path for path in paths if f"{path}.".startswith(f"{name}.")]
        if len(found) == 1:
            return found[0]
        known = ", ".join(path.removesuffix(_SELF_ATTENTION) for path in paths)
        raise AssetError(f"The UNet has no one self-attention layer '{name}': set task.layer to one of {known}.")

    def layers(self) -> dict[str, int]:
        """Every self-attention layer, from input to output: how many times smaller its map is than the latent."""
        return dict(self._layers)

    @cached_property
    def _layers(self) -> dict[str, int]:
        return {
            f"{block}.{path}": factor
            for block, module, factor in _blocks(self.pipe.unet)
            for path, _ in module.named_modules()
            if path.endswith(".attn1")
        }

    def map_size(self, layer: str, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a layer's tokens, for latents of `latent_size` (h, w): each halving rounds up.

        Raises
        ------
        AssetError
            See `layer`.
        """
        factor = self.layers()[self.layer(layer)]
        height, width = latent_size
        return -(-height // factor), -(-width // factor)

    @cached_property
    def _dtype(self) -> torch.dtype:
        """Of all networks; diffusers walks through their modules each time it is asked."""
        return self.pipe.unet.dtype

    def _latent_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        height, width = size or (self.image_size, self.image_size)
        scale = self.pipe.vae_scale_factor
        _check_size(scale, (height, width))
        return height // scale, width // scale


def _blocks(unet: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Blocks from input to output, each with how many times smaller than the latent its maps are.

    A block attends before it halves or doubles the map.
    """
    factor = 1
    for index, block in enumerate(unet.down_blocks):
        yield f"down_blocks.{index}", block, factor
        factor *= 2 if block.downsamplers else 1
    yield "mid_block", unet.mid_block, factor
    for index, block in enumerate(unet.up_blocks):
        yield f"up_blocks.{index}", block, factor
        factor //= 2 if block.upsamplers else 1


def _gaussian(shape: tuple[int, ...], seeds: Sequence[int]) -> Tensor:
    """One draw (seeds, *shape) fp32 a seed, on the host, so that neither batch nor device changes it.

    numpy's, for torch's generator on the host reads 32 bits of a seed: two of 50 000 images would often be the same.
    """
    draws = [np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(draws))


def _check_posterior(posterior: str, seeds: Sequence[int] | None, images: int) -> None:
    if posterior not in ("mean", "sample"):
        raise DataError(f"The posterior cannot be '{posterior}': choose mean or sample.")
    given = 0 if seeds is None else len(seeds)
    wanted = images if posterior == "sample" else 0
    if given != wanted:
        raise DataError(f"The posterior's {posterior} of {images} images takes {wanted} seeds, not {given}: pass them.")


def _squash(image: np.ndarray, height: int, width: int) -> Tensor:
    """One image (H, W, 3) uint8 to (1, 3, height, width) uint8, bicubic."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise DataError(
            f"An image is an array {image.shape} of {image.dtype}, but the model takes (height, width, 3) of uint8: "
            "convert it."
        )
    squashed = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(squashed)).permute(2, 0, 1)[None].contiguous()
