"""Self-attention guidance as pure functions of tensors (Hong et al., ICCV 2023; protocol 2).

A sample x_t holds sqrt(signal) of the clean image x_0 and sqrt(1 - signal) of noise; `signal` is the scheduler's
cumulative product of alphas at the time step. Everything is computed in the tensors' own type, fp32 in the sampler.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS, SIGMA = 9, 1.0  # of the blur, in latent pixels (protocol 2, step 5)
SMALLEST = TAPS // 2 + 1  # side of the smallest latent that the blur's border can be reflected in


def clean_estimate(latents: Tensor, noise: Tensor, signal: float) -> Tensor:
    """Clean latents x_0 that the predicted noise implies, not clipped (protocol 2, step 2). All (B, C, H, W)."""
    return (latents - math.sqrt(1 - signal) * noise) / math.sqrt(signal)


def renoised(clean: Tensor, noise: Tensor, signal: float) -> Tensor:
    """Latents x_t of clean latents and the noise in them: undoes `clean_estimate` (protocol 2, step 6)."""
    return math.sqrt(signal) * clean + math.sqrt(1 - signal) * noise


def blurred(latents: Tensor) -> Tensor:
    """Gaussian blur of every channel, 9 x 9 taps, sigma 1, borders reflected (protocol 2, step 5).

    Parameters
    ----------
    latents
        (B, C, H, W), sides of at least 5.
    """
    channels, border = latents.shape[1], TAPS // 2
    taps = torch.tensor(_taps(), dtype=latents.dtype, device=latents.device)
    kernel = torch.outer(taps, taps).expand(channels, 1, TAPS, TAPS)
    return F.conv2d(F.pad(latents, (border,) * 4, mode="reflect"), kernel, groups=channels)


@cache
def _taps() -> list[float]:
    """Weights of the blur along one axis, summing to one."""
    weights = [math.exp(-0.5 * ((position - TAPS // 2) / SIGMA) ** 2) for position in range(TAPS)]
    return [weight / sum(weights) for weight in weights]


def saliency_mask(saliency: Tensor, threshold: float = 1.0, cap: float | None = None) -> Tensor:
    """Tokens to blur: those above the threshold, and of them at most the highest share `cap` of all tokens.

    Parameters
    ----------
    saliency
        (B, n), of mean 1.
    threshold
        What a token must exceed: 1.0 in both code bases (protocol 2, step 3).
    cap
        Largest share of the tokens, in (0, 1]: 0.4 is our reading of the paper's "up to 40 %" (protocol 9.12). Of equal
        tokens the earlier are taken. None: no limit.

    Returns
    -------
    Tensor
        (B, n) bool.
    """
    above = saliency > threshold
    if cap is None:
        return above
    most = math.floor(cap * saliency.shape[-1] + 1e-9)  # 0.29 of 100 tokens are 29, whatever their product rounds to
    highest = saliency.argsort(dim=-1, descending=True, stable=True)[..., :most]
    return above & torch.zeros_like(above).scatter(-1, highest, True)


def on_latents(mask: Tensor, size: tuple[int, int], latent_size: tuple[int, int]) -> Tensor:
    """Spread a mask of a layer's tokens over the latents, to the nearest (protocol 2, step 4).

    Parameters
    ----------
    mask
        (B, h w) bool.
    size
        Height and width of the tokens' map, h and w.
    latent_size
        Height and width of the latents.

    Returns
    -------
    Tensor
        (B, 1, H, W) bool.
    """
    grid = mask.view(-1, 1, *size).float()
    return F.interpolate(grid, latent_size, mode="nearest") > 0.5


def degraded(latents: Tensor, noise: Tensor, mask: Tensor, signal: float) -> Tensor:
    """Latents whose clean estimate is blurred under the mask, with the predicted noise put back (protocol 2, 5 and 6).

    Parameters
    ----------
    latents, noise
        x_t and its predicted noise, (B, C, H, W).
    mask
        (B, 1, H, W) bool.
    signal
        In (0, 1).
    """
    clean = clean_estimate(latents, noise, signal)
    return renoised(torch.where(mask, blurred(clean), clean), noise, signal)


def classifier_free(free: Tensor, conditional: Tensor, cfg: float) -> Tensor:
    """Noise driven from the prediction without the prompt towards the one with it (Ho and Salimans, 2022)."""
    return free + cfg * (conditional - free)


def self_attention(guided: Tensor, noise: Tensor, noise_of_degraded: Tensor, scale: float) -> Tensor:
    """Noise driven away from the prediction for the degraded latents (protocol 2, step 7).

    Parameters
    ----------
    guided
        Noise so far, (B, C, H, W): with classifier-free guidance its outcome, else `noise` itself.
    noise, noise_of_degraded
        Predictions of the branch without the prompt, or of the only branch.
    scale
        How far; 0 changes nothing.
    """
    return guided + scale * (noise - noise_of_degraded)
