"""The sampler of Stable Diffusion with self-attention guidance: one loop for any layer, any latents and any method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attention_chains.capture import Call, capture
from attention_chains.chain import AttentionChain
from attention_chains.config import ConfigError
from attention_chains.tasks import guidance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_chains.methods import Saliency
    from attention_chains.models.sd15 import StableDiffusion


@dataclass(frozen=True)
class Guidance:
    """How a method's saliency guides.

    Attributes
    ----------
    layer : str
        The self-attention that is read, as `StableDiffusion.layer` names it.
    scale : float
        Of self-attention guidance; 0 is none.
    cfg : float
        Of classifier-free guidance; 1 is none, and then the only branch is the prompt's.
    threshold, cap
        See `guidance.saliency_mask`.
    """

    layer: str
    scale: float = 0.75
    cfg: float = 1.0
    threshold: float = 1.0
    cap: float | None = None


@dataclass(frozen=True)
class Sampled:
    """A batch at the end of the schedule.

    Attributes
    ----------
    latents : Tensor
        (B, C, H, W) fp32.
    masked : Tensor
        (B,) fp32: share of the tokens that was blurred, the mean over the steps.
    """

    latents: Tensor
    masked: Tensor


class NotFiniteError(ArithmeticError):
    """Latents, or noise predicted for them, that are NaN or infinite.

    Attributes
    ----------
    rows : list of int
        Which of the batch.
    step : int
        After how many steps it was noticed.
    """

    def __init__(self, rows: list[int], step: int) -> None:
        super().__init__(f"rows {rows} after {step} steps")
        self.rows, self.step = rows, step


@torch.inference_mode()
def sample(
    model: StableDiffusion,
    latents: Tensor,
    prompts: Sequence[str],
    chosen: Guidance,
    saliency: Saliency,
    steps: int | None = None,
) -> Sampled:
    """Denoise latents to the end of the schedule (protocol 2, steps 1 to 8).

    The attention is read in the pass that predicts the noise: guidance costs one more pass a step, whatever the method.

    Parameters
    ----------
    model
        A loaded pipeline.
    latents
        Unit Gaussian noise (B, C, H, W) fp32, of any height and width.
    prompts
        B texts.
    chosen
        The layer and the strengths.
    saliency
        A method of kind "saliency".
    steps
        Steps of the schedule; the model's own number without it.

    Raises
    ------
    AssetError
        There is no such layer.
    ConfigError
        The latents are too small to be blurred.
    NotFiniteError
        A prediction or the result is NaN or infinite.
    """
    scheduler = model.scheduler(steps)
    guide = _Guide(model, prompts, chosen, saliency, latents)
    latents = latents * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps.tolist()  # numbers: a tensor on a GPU would be waited for in every step
    for step, timestep in enumerate(timesteps):
        noise = guide(latents, timestep, float(scheduler.alphas_cumprod[timestep]), step)
        latents = scheduler.step(noise, timestep, latents).prev_sample
    _refuse_not_finite(latents, len(timesteps))
    return Sampled(latents, guide.masked / len(timesteps))


def _refuse_not_finite(tensor: Tensor, step: int) -> None:
    finite = tensor.isfinite().flatten(1).all(1)
    if not finite.all():
        raise NotFiniteError((~finite).nonzero().flatten().tolist(), step)


class _Guide:
    """Predicts the noise of one batch, guided.

    Attributes
    ----------
    masked : Tensor
        (B,) share of the tokens that was blurred, summed over the steps so far.
    """

    def __init__(
        self, model: StableDiffusion, prompts: Sequence[str], chosen: Guidance, saliency: Saliency, latents: Tensor
    ) -> None:
        with_prompt = model.context(prompts)
        self._conditional = None if chosen.cfg == 1 else with_prompt
        self._context = with_prompt if chosen.cfg == 1 else model.context([""] * len(prompts))
        self._model, self._chosen, layer = model, chosen, model.layer(chosen.layer)
        self._attention = model.pipe.unet.get_submodule(layer)
        self._latent_size = (latents.shape[-2], latents.shape[-1])
        self._size = model.map_size(layer, self._latent_size)
        self._saliency = saliency if chosen.scale else None
        self.masked = latents.new_zeros(len(latents))
        if min(self._latent_size) < guidance.SMALLEST:
            raise ConfigError(
                f"Latents of {self._latent_size[0]} x {self._latent_size[1]} are too small for guidance, whose blur "
                f"needs {guidance.SMALLEST}: set a larger model.image_size."
            )

    def __call__(self, latents: Tensor, timestep: int, signal: float, step: int) -> Tensor:
        """Guided noise of x_t, (B, C, H, W)."""
        noise, mask = self._noise_and_mask(latents, timestep, step)
        guided = noise
        if self._conditional is not None:
            conditional = self._model.predict(latents, timestep, self._conditional)
            guided = guidance.classifier_free(noise, conditional, self._chosen.cfg)
        if mask is None:
            return guided
        degraded = guidance.degraded(latents, noise, mask, signal)
        noise_of_degraded = self._model.predict(degraded, timestep, self._context)
        return guidance.self_attention(guided, noise, noise_of_degraded, self._chosen.scale)

    def _noise_and_mask(self, latents: Tensor, timestep: int, step: int) -> tuple[Tensor, Tensor | None]:
        """Noise of the branch without the prompt, or of the only branch, and what of the latents is to be blurred."""
        if self._saliency is None:
            return self._model.predict(latents, timestep, self._context), None
        with capture(self._attention) as tape:  # the layer alone: to watch all the UNet would cost a tenth of a pass
            noise = self._model.predict(latents, timestep, self._context)
        _refuse_not_finite(noise, step)  # which names the sample, as the refusal of its attention would not
        return noise, self._mask(_mean_head(tape[""]))

    def _mask(self, chain: AttentionChain) -> Tensor | None:
        found = self._saliency(chain, self._size)
        if found is None:  # a method that does not guide is not asked again
            self._saliency = None
            return None
        mask = guidance.saliency_mask(found, self._chosen.threshold, self._chosen.cap)
        self.masked += mask.float().mean(-1)
        return guidance.on_latents(mask, self._size, self._latent_size)


def _mean_head(call: Call) -> AttentionChain:
    """Head by head and always formed: a mask is cut at a threshold, and free memory must not decide the last bits."""
    mean = call.matrix(0)
    for head in range(1, call.heads):
        mean += call.matrix(head)
    return AttentionChain(mean / call.heads)
