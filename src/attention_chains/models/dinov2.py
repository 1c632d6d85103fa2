"""DINOv2 with registers: the adapter, with the published four-layer linear heads (protocol 4.1).

The original brings position embeddings of the networks with registers to another grid by bicubic interpolation with
antialias and without an offset, which is timm's way too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attention_chains.models.dino import last_blocks, load_dino
from attention_chains.models.layouts import TIMM
from attention_chains.models.vision import Vision

LAYOUT = TIMM


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
    """Load a DINOv2 network from a timm folder or repository, and its head where one is given.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision the network runs; the head runs in fp32.
    image_size
        Side of the square input, pixels.
    head, head_sha256
        Four-layer linear head in the published form (keys "weight", "bias") and its hash; see `head_file`. None: no
        classifier.
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
        prefix="",
        features=features,
        width=width,
    )


def features(network: VisionTransformer, pixels: Tensor) -> Tensor:
    """What the published heads read: CLS of the last four blocks, then the last mean patch, (B, 5 D), final norm."""
    layers = last_blocks(network, pixels, 4)
    return torch.cat([*(prefix[:, 0] for _, prefix in layers), layers[-1][0].mean(1)], dim=-1)


def width(network: VisionTransformer) -> int:
    """Number of `features`."""
    return 5 * network.embed_dim
