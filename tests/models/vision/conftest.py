"""Vision transformers of every family with random weights, in the forms they have on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip import CLIP
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from attention_chains import models
from attention_chains.models.uninitialised import Uninitialised
from attention_chains.models.vision import Vision

CPU = torch.device("cpu")
SETTINGS = {"revision": None, "device": CPU, "dtype": torch.float32}
PREFIX = {"dinov1": "module.linear.", "dinov2": ""}
TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}
NAMES = ("tench", "tabby cat", "tie", "fire engine", "harp")


@dataclass(frozen=True)
class Made:
    """A folder, and the library's own network with the weights that are in it."""

    folder: Path
    network: nn.Module


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Fill all parameters so that attention is peaked, and that norms, biases and layer scales count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(generator=generator)
            if name.endswith("gamma") or (name.endswith("weight") and parameter.ndim == 1):
                parameter.mul_(0.1).add_(0.7)
            elif parameter.ndim < 2 or "pos" in name or "token" in name or "embedding" in name:
                parameter.mul_(0.3)
            else:
                parameter.mul_((1.5 if "qkv" in name or "in_proj" in name else 1) / parameter[0].numel() ** 0.5)


@pytest.fixture(scope="session")
def disk(tmp_path_factory) -> Iterator[Path]:
    """A folder that is gone after the tests: the networks are of full size."""
    folder = tmp_path_factory.mktemp("vision")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def timm_folder(disk: Path) -> Callable[..., Made]:
    """Make a network of timm's by its name, once for the same arguments."""
    made: dict[str, Made] = {}

    def make(name: str, **arguments: object) -> Made:
        key = json.dumps([name, arguments])
        if key not in made:
            with torch.device("meta"):
                network = timm.create_model(name, **arguments)
            network = network.to_empty(device="cpu").eval().requires_grad_(False)
            randomise(network)
            save_for_hf(network, disk / str(len(made)), safe_serialization=True)
            made[key] = Made(disk / str(len(made)), network)
        return made[key]

    return make


@pytest.fixture(scope="session")
def clip_folder(disk: Path) -> Callable[..., Made]:
    """Make a CLIP of open_clip's by its name, or with some sizes changed, once for the same arguments."""
    made: dict[str, Made] = {}

    def make(name: str, **vision: object) -> Made:
        key = json.dumps([name, vision])
        if key not in made:
            config = open_clip.get_model_config(name)
            if vision:
                config["vision_cfg"] |= vision
                config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
            with Uninitialised():
                network = CLIP(**config).eval().requires_grad_(False)
            randomise(network)
            network.logit_scale.fill_(3)
            made[key] = Made(_write_clip(network, config, disk / f"clip{len(made)}"), network)
        return made[key]

    return make


def _write_clip(network: CLIP, config: dict, folder: Path) -> Path:
    folder.mkdir()
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="session")
def head_file(disk: Path) -> Callable[..., Path]:
    """Write a random linear head in the form of a family."""

    def write(family: str, width: int, classes: int = 1000) -> Path:
        path = disk / f"{family}-{width}-{classes}.safetensors"
        generator = torch.Generator().manual_seed(width)
        weight = torch.randn(classes, width, generator=generator) / width**0.5
        bias = torch.randn(classes, generator=generator)
        save_file({f"{PREFIX[family]}weight": weight, f"{PREFIX[family]}bias": bias}, path)
        return path

    return write


@pytest.fixture(scope="session")
def load() -> Callable[..., Vision]:
    """Load a model on the CPU in fp32."""
    return lambda family, **settings: models.load(family, **{**SETTINGS, **settings})


@pytest.fixture(scope="session")
def tiny(timm_folder, clip_folder) -> Callable[[str], Made]:
    """A tiny network of each family, 32 pixels and patches of 8."""
    shapes = {
        "vit": ("vit_base_patch16_224", {"num_classes": 10}),
        "dinov1": ("vit_base_patch16_224.dino", {"num_classes": 0}),
        "dinov2": ("vit_base_patch14_reg4_dinov2.lvd142m", {"num_classes": 0}),
    }

    def make(family: str) -> Made:
        if family == "clip":
            return clip_folder("ViT-B-32-quickgelu", image_size=32, patch_size=8, width=64, layers=4, head_width=32)
        name, arguments = shapes[family]
        return timm_folder(name, img_size=32, patch_size=8, **arguments, **TINY)

    return make


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Two smooth images with structure, of different sizes."""
    generator = np.random.default_rng(0)
    coarse = [generator.integers(0, 256, (*shape, 3)) for shape in ((9, 13), (12, 7))]
    return [np.kron(image, np.ones((25, 25, 1))).astype(np.uint8) for image in coarse]


@pytest.fixture(scope="session")
def loaded(timm_folder, clip_folder, head_file, load) -> Callable[[str], tuple[Vision, VisionTransformer | CLIP]]:
    """A model of full size by a short name, beside the library's own network with the same weights."""
    made: dict[str, tuple[Vision, nn.Module]] = {}

    def get(name: str) -> tuple[Vision, nn.Module]:
        if name not in made:
            made[name] = make(name)
        return made[name]

    def make(name: str) -> tuple[Vision, nn.Module]:
        if name == "clip":
            clip = clip_folder("ViT-B-32-quickgelu")
            return load("clip", source=str(clip.folder), image_size=224, classes=NAMES), clip.network
        family, architecture, arguments, width = {
            "vit": ("vit", "vit_base_patch16_224", {}, None),
            "dinov1_s16": ("dinov1", "vit_small_patch16_224.dino", {}, 1536),
            "dinov1_b16": ("dinov1", "vit_base_patch16_224.dino", {"depth": 3}, 1536),
            "dinov2": ("dinov2", "vit_small_patch14_reg4_dinov2.lvd142m", {"img_size": 224}, 1920),
        }[name]
        made = timm_folder(architecture, **arguments)
        head = {} if width is None else {"head": str(head_file(family, width))}
        return load(family, source=str(made.folder), image_size=224, **head), made.network

    return get
