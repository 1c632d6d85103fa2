"""CLIP: the adapter of open_clip's models as zero-shot classifiers, "A photo of a <class>." (protocol 4.1).

Text features are normalised, for their norms differ by class (protocol 4.1). Position embeddings go to another grid as
open_clip has it, bicubic with antialias; OpenAI's code has no way of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import open_clip
import torch
from open_clip import CLIP
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from attention_chains.models.assets import first_complaint, first_line, local_folder
from attention_chains.models.class_names import class_names
from attention_chains.models.errors import AssetError
from attention_chains.models.layouts import OPEN_CLIP
from attention_chains.models.linear_head import refuse_head
from attention_chains.models.preprocessing import BICUBIC, Preprocessing, crop, geometry
from attention_chains.models.uninitialised import Uninitialised
from attention_chains.models.vision import Vision, check_size, frozen

LAYOUT = OPEN_CLIP
PROMPT = "A photo of a {}."
_TEXTS = 50  # to a batch
_OPENAI = ".openai"  # ends the names of repositories with OpenAI's weights, which were trained with QuickGELU
_POSITIONS = "visual.positional_embedding"


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
    """Load a CLIP from an open_clip folder or repository, and make a classifier of its text tower.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision the towers run; features are compared in fp32.
    image_size
        Side of the square input, pixels.
    head, head_sha256
        Not taken: the classifier is the text tower.
    classes
        Names of the classes, see `class_names`; None: ImageNet's.
    resize
        "crop" (None is the same), which resizes the shorter side, or "squash"; both bicubic.

    Raises
    ------
    AssetError
        The weights cannot be loaded, or the other settings do not fit them.
    """
    refuse_head("clip", head or head_sha256)
    folder = local_folder(source, revision, OPEN_CLIP)
    config = _config(source, folder)
    patch = config["model_cfg"]["vision_cfg"]["patch_size"]
    grid = check_size(source, image_size, patch)
    _check_grid(source, folder, config["model_cfg"]["vision_cfg"])
    network = frozen(_network(source, folder, image_size), device, dtype)
    texts = text_features(network, source, folder, class_names("imagenet" if classes is None else classes))
    way = geometry(crop, crop, resize)
    preprocess = Preprocessing(image_size, patch, way, BICUBIC, *_statistics(config))
    return Vision(
        network,
        [f"visual.transformer.resblocks.{index}.attn" for index in range(len(network.visual.transformer.resblocks))],
        registers=0,
        grid=grid,
        classes=len(texts),
        preprocess=preprocess,
        run=network.encode_image,
        classify=partial(_classify, network, texts),
    )


def text_features(network: CLIP, source: str, folder: Path, names: Sequence[str]) -> Tensor:
    """Features of "A photo of a <class>." for every class, each of norm one: (classes, D) fp32.

    Parameters
    ----------
    network
        On the device where the text tower is to run.
    source, folder
        Where the tokenizer is; without `hf_tokenizer_name` in the config, it is OpenAI's.
    names
        Of the classes.

    Raises
    ------
    AssetError
        The tokenizer is not there, or is another model's.
    """
    tokens = _tokens(network, source, folder, names).to(network.logit_scale.device)  # (classes, length)
    features = torch.cat([network.encode_text(batch) for batch in tokens.split(_TEXTS)])
    return normalize(features.float(), dim=-1)


def _tokens(network: CLIP, source: str, folder: Path, names: Sequence[str]) -> Tensor:
    try:
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([PROMPT.format(name) for name in names])
    except Exception as error:  # whatever transformers makes of files that are not there or not a tokenizer's
        raise AssetError(
            f"The tokenizer of {source} cannot be loaded ({first_line(error)}): copy or download it again."
        ) from error
    known = network.token_embedding.num_embeddings
    if tokens.max() >= known:
        raise AssetError(
            f"The tokenizer of {source} gives token {tokens.max()}, but its text tower knows {known}: set "
            "text_cfg.hf_tokenizer_name in open_clip_config.json to use the folder's own tokenizer."
        )
    return tokens


def _classify(network: CLIP, texts: Tensor, pixels: Tensor) -> Tensor:
    images = normalize(network.encode_image(pixels).float(), dim=-1)
    return network.logit_scale.float().exp() * images @ texts.mT


def _config(source: str, folder: Path) -> dict:
    try:
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["vision_cfg"]["patch_size"], config["model_cfg"]["vision_cfg"]["image_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(
            f"The open_clip_config.json of {source} describes no vision transformer ({first_line(error)}): copy or "
            "download it again."
        ) from error
    return config


def _network(source: str, folder: Path, image_size: int) -> CLIP:
    try:
        with Uninitialised():
            network = open_clip.create_model(
                f"local-dir:{folder}",
                force_image_size=image_size,
                force_quick_gelu=source.endswith(_OPENAI),  # or another activation goes unnoticed
            )
    except Exception as error:  # whatever constructors and loaders make of what does not fit
        raise AssetError(
            f"{source} is no CLIP that open_clip can load ({first_complaint(error)}): copy or download it again."
        ) from error
    if not isinstance(network, CLIP) or not isinstance(network.visual, VisionTransformer):
        raise AssetError(f"{source} is no CLIP with a vision transformer of open_clip's: choose another model.source.")
    return network


def _check_grid(source: str, folder: Path, vision: dict) -> None:
    """Open_clip would interpolate position embeddings that belong to another grid."""
    try:
        with safe_open(folder / "open_clip_model.safetensors", "pt") as file:
            names = set(file.keys())
            there = file.get_slice(_POSITIONS).get_shape()[0] if _POSITIONS in names else 0
    except (OSError, SafetensorError) as error:
        raise AssetError(
            f"The open_clip_model.safetensors of {source} cannot be read ({first_line(error)}): copy or "
            "download it again."
        ) from error
    wanted = 1 + (vision["image_size"] // vision["patch_size"]) ** 2
    if there != wanted:
        raise AssetError(
            f"The weights of {source} have {there} position embeddings, but the grid of its open_clip_config.json "
            f"takes {wanted}: give it the config that belongs to the weights."
        )


def _statistics(config: dict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    given = config.get("preprocess_cfg", {})
    mean, std = given.get("mean", open_clip.OPENAI_DATASET_MEAN), given.get("std", open_clip.OPENAI_DATASET_STD)
    return tuple(mean), tuple(std)
