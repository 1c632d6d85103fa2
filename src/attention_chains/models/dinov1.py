"""DINO (v1): the adapter of self-distilled vision transformers, with their published linear heads (protocol 4.1).

The heads read other features than one would guess: of the small networks the CLS token of the last four blocks; of the
base networks the last block's CLS token and mean patch, interleaved element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from attention_chains.models.dino import last_blocks, load_dino
from attention_chains.models.layouts import TIMM
from attention_chains.models.vision import Vision

LAYOUT = TIMM
SMALL = 384  # widest network whose head reads four blocks
_OFFSET = 0.1  # patches, added to the grid by the original so that rounding never loses a row


def load(
    source: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    image_size: int,
    head: str | None = None,
    head_sha256: str | None = None,
    classes: str | Sequence[str] | None = None,
    resize: str | None = None,
) -> Vision:
    """Load a DINO network from a timm folder or repository, and its head where one is given.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision the network runs; the head runs in fp32.
    image_size
        Side of the square input, pixels; position embeddings are interpolated as the original does.
    head, head_sha256
        Linear head in the published form (keys "module.linear.weight", "module.linear.bias") and its hash; see
        `head_file`. None: no classifier.
    classes
        Names of the classes, held against the head's number; see `class_names`.
    resize
        "crop" (None is the same), which resizes to 256/224 of the side first, or "squash"; both bicubic.

    Raises
    ------
    AssetError
        The weights or the head cannot be loaded, or the other settings do not fit them.
    """
    return load_dino(
        source,
        revision,
        device,
        dtype,
        image_size,
        head,
        head_sha256,
        classes,
        resize,
        prefix="module.linear.",
        features=features,
        width=width,
        resample=resample,
    )


def resample(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches' position embeddings on another grid: bicubic, without antialias, by a scale that has the offset in it.

    Parameters
    ----------
    maps
        (1, D, h, w) of a square grid.
    grid
        Rows and columns wanted.

    Returns
    -------
    Tensor
        (1, D, rows, columns), as the original's `interpolate_pos_encoding` gives.
    """
    own = sqrt(maps.shape[-2] * maps.shape[-1])
    scale = [(wanted + _OFFSET) / own for wanted in grid]
    return interpolate(maps, scale_factor=scale, mode="bicubic")


def features(network: VisionTransformer, pixels: Tensor) -> Tensor:
    """What the published heads read: (B, 4 D) up to a width of `SMALL`, else (B, 2 D), after the final norm."""
    layers = last_blocks(network, pixels, _blocks(network))
    if len(layers) > 1:
        return torch.cat([prefix[:, 0] for _, prefix in layers], dim=-1)
    patches, prefix = layers[-1]
    return torch.stack([prefix[:, 0], patches.mean(1)], dim=-1).flatten(1)  # c0, p0, c1, p1, ...


def width(network: VisionTransformer) -> int:
    """Number of `features`: 1536 of the published small and base networks alike."""
    return max(2, _blocks(network)) * network.embed_dim


def _blocks(network: VisionTransformer) -> int:
    return 4 if network.embed_dim <= SMALL else 1
