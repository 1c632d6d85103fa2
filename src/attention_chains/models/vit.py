"""ViT: the adapter of supervised vision transformers, with their own classifier (protocol 4.1).

Position embeddings go to another grid as timm has it, bicubic with antialias; the paper uses none but 224 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attention_chains.models.class_names import class_names
from attention_chains.models.errors import AssetError
from attention_chains.models.layouts import TIMM
from attention_chains.models.linear_head import refuse_head
from attention_chains.models.preprocessing import BILINEAR, Preprocessing, crop_of_256, geometry, squash
from attention_chains.models.timm_folder import load_timm
from attention_chains.models.vision import Vision, check_classes

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
    """Load a supervised vision transformer from a timm folder or repository.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision the model runs; attention is read in fp32 whatever the precision.
    image_size
        Side of the square input, pixels.
    head, head_sha256
        Not taken: the classifier is part of the weights.
    classes
        Names of the classes, held against the classifier's number; see `class_names`.
    resize
        "squash" (None is the same) or "crop", which resizes to 256/224 of the side first; both bilinear.

    Raises
    ------
    AssetError
        The weights cannot be loaded, or the other settings do not fit them.
    """
    refuse_head("vit", head or head_sha256)
    loaded = load_timm(source, revision, device, dtype, image_size)
    network = loaded.network
    if network.num_classes == 0:
        raise AssetError(f"{source} has no classifier: choose a model.source with a supervised head.")
    check_classes(source, None if classes is None else len(class_names(classes)), network.num_classes)
    way = geometry(squash, crop_of_256, resize)
    preprocess = Preprocessing(image_size, loaded.patch, way, BILINEAR, loaded.mean, loaded.std)
    return Vision(
        network,
        loaded.blocks,
        loaded.registers,
        loaded.grid,
        network.num_classes,
        preprocess,
        run=network.forward_features,
        classify=network,
    )
