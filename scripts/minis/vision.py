"""What the vision miniatures share: the shape of their transformers, how images enter, and what is kept of them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from attention_chains.data.digit_scenes import DIGITS, SIDE, DigitScenes
from minis.loop import Recipe

BATCH = 64
PATCH = 8
GRID = SIDE // PATCH
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def new_transformer(architecture: str, sizes: dict) -> nn.Module:
    """Make a timm vision transformer with random weights; its positions begin as sines and cosines, which saves steps.

    Its attention is written out: under autocast to bf16 torch's fused one is slower on a CPU than product by product.
    """
    network = timm.create_model(architecture, pretrained=False, **sizes)
    network.pos_embed.data[:, -GRID * GRID :] = positions(network.embed_dim)
    for block in network.blocks:
        block.attn.fused_attn = False
    return network


def positions(width: int) -> Tensor:
    """Sines and cosines of the patches' rows and columns, half as large as usual: (64, width)."""
    return 0.5 * build_sincos2d_pos_embed([GRID, GRID], width)


class MaskHead(nn.Linear):
    """Says from each patch token which of its pixels are digit, in training alone.

    From labels or captions alone a network stays at chance for long; told where the digit is, it learns what it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, PATCH * PATCH)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits (B, 64, 64) from patch tokens (B, 64, width)."""
        tiles = super().forward(patches).unflatten(-1, (PATCH, PATCH)).unflatten(1, (GRID, GRID))
        return tiles.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)


def normalise(images: Tensor, statistics: Statistics) -> Tensor:
    """Images (B, 3, H, W) in [0, 255], shifted and scaled a channel."""
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in statistics)
    return (images / 255 - mean) / deviation


def held_out(count: int, statistics: Statistics) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the first `count` scenes with one object of the test split: pixels (B, 3, 64, 64) and labels (B,)."""
    scenes = DigitScenes("test", count, word="digit")
    for first in range(0, count, BATCH):
        batch = [scenes[index] for index in range(first, min(first + BATCH, count))]
        images = torch.from_numpy(np.stack([sample.image for sample in batch])).permute(0, 3, 1, 2)
        yield normalise(images, statistics), torch.tensor([DIGITS.index(sample.word) for sample in batch])


@torch.no_grad()
def accuracy(logits: Callable[[Tensor], Tensor], count: int, statistics: Statistics) -> float:
    """Share of held-out scenes whose class `logits` of pixels names, in percent."""
    correct = sum((logits(pixels).argmax(-1) == labels).sum().item() for pixels, labels in held_out(count, statistics))
    return round(100 * correct / count, 1)


def write_transformer(network: nn.Module, architecture: str, sizes: dict, statistics: Statistics, output: Path) -> None:
    """Write the folder that `timm.create_model("local-dir:...", pretrained=True)` reads, weights in fp16."""
    output.mkdir(parents=True, exist_ok=True)
    mean, deviation = statistics
    config = {
        "architecture": architecture,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "model_args": sizes,
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE],
            "num_classes": network.num_classes,
            "mean": mean,
            "std": deviation,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_weights(network.state_dict(), output / "model.safetensors")


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors in fp16: half the size. What is measured is measured on these."""
    save_file({name: value.detach().cpu().half().contiguous() for name, value in state.items()}, path)


def write_record(folder: Path, output: Path, name: str, recipe: object, data: str, figures: dict) -> None:
    """Write `training.json` (recipe, data hash, weight hashes, figures) and the stages' logs beside the weights."""
    stages = [field for field, value in vars(recipe).items() if isinstance(value, Recipe)]
    for stage in stages:
        (output / f"{stage}.csv").write_bytes((folder / f"{stage}.csv").read_bytes())
    seconds = sum(float(list(csv.reader((folder / f"{stage}.csv").open()))[-1][2]) for stage in stages)
    record = {
        "command": f"python scripts/train_minis.py {name}",
        "recipe": asdict(recipe),
        "data": data,
        "minutes": round(seconds / 60, 1),
        "weights": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.glob("*.safetensors")},
        **figures,
    }
    (output / "training.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
