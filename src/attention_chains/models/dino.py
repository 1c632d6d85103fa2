"""What DINO and DINOv2 share: a network without a classifier, and a linear head in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from attention_chains.models.class_names import class_names
from attention_chains.models.linear_head import LinearHead, load_head
from attention_chains.models.preprocessing import BICUBIC, Preprocessing, crop_of_256, geometry
from attention_chains.models.timm_folder import Resample, load_timm
from attention_chains.models.vision import Vision, check_classes

Features = Callable[[VisionTransformer, Tensor], Tensor]


def load_dino(
    source: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    image_size: int,
    head: str | None,
    head_sha256: str | None,
    classes: str | Sequence[str] | None,
    resize: str | None,
    prefix: str,
    features: Features,
    width: Callable[[VisionTransformer], int],
    resample: Resample | None = None,
) -> Vision:
    """Load a network and, where one is given, its head.

    Parameters
    ----------
    source, revision, device, dtype, image_size, head, head_sha256, classes, resize
        See `dinov1.load`.
    prefix
        What stands before "weight" and "bias" in the head's keys.
    features
        What the head reads: network and pixels (B, 3, S, S) to (B, width).
    width
        How many features these are.
    resample
        See `load_timm`.

    Raises
    ------
    AssetError
        The weights or the head cannot be loaded, or the other settings do not fit them.
    """
    loaded = load_timm(source, revision, device, dtype, image_size, resample)
    network, outputs, classify = loaded.network, 0, None
    if head is not None:
        linear = load_head(head, head_sha256, prefix, width(network), device)
        outputs, classify = len(linear.bias), partial(_classify, network, features, linear)
        check_classes(head, None if classes is None else len(class_names(classes)), outputs)
    way = geometry(crop_of_256, crop_of_256, resize)
    preprocess = Preprocessing(image_size, loaded.patch, way, BICUBIC, loaded.mean, loaded.std)
    return Vision(
        network,
        loaded.blocks,
        loaded.registers,
        loaded.grid,
        outputs,
        preprocess,
        run=network.forward_features,
        classify=classify,
    )


def last_blocks(network: VisionTransformer, pixels: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    """Patches (B, P, D) and other tokens (B, 1 + registers, D) after each of the last `n` blocks and the final norm."""
    return network.forward_intermediates(
        pixels, n, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )


def _classify(network: VisionTransformer, features: Features, head: LinearHead, pixels: Tensor) -> Tensor:
    return head(features(network, pixels))
