"""The supervised miniature: a vision transformer that names the digit of a scene, trained with its label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_chains.data.digit_scenes import DIGITS, SIDE
from minis.canvas import Canvas, data_hash, load_canvas
from minis.loop import Recipe, step_generator, train
from minis.vision import (
    BATCH,
    HALF,
    PATCH,
    MaskHead,
    accuracy,
    new_transformer,
    normalise,
    write_record,
    write_transformer,
)

ARCHITECTURE = "vit_tiny_patch16_224"
SIZES = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "num_classes": len(DIGITS),
}


@dataclass(frozen=True)
class ViTRecipe:
    """Everything that decides the weights."""

    seed: int = 0
    backgrounds: int = 8000
    scenes: int = 1000  # held-out ones, of the card's accuracy
    smoothing: float = 0.1
    calm: int = 300  # steps in which the backgrounds gain their contrast
    supervised: Recipe = Recipe(steps=1600, learning_rate=2e-3, weight_decay=0.05, muon=True)


class Supervised(nn.Module):
    """The network, and the mask head that helps it learn."""

    def __init__(self) -> None:
        super().__init__()
        self.network = new_transformer(ARCHITECTURE, SIZES)
        self.mask_head = MaskHead(SIZES["embed_dim"])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the classes (B, 10) and of the mask (B, 64, 64)."""
        tokens = self.network.forward_features(pixels)
        return self.network.forward_head(tokens), self.mask_head(tokens[:, 1:])


def build(folder: Path, output: Path, recipe: ViTRecipe | None = None, device: str = "cpu") -> None:
    """Train (or resume) in `folder` and write the finished model to `output`."""
    recipe = recipe or ViTRecipe()
    folder.mkdir(parents=True, exist_ok=True)
    canvas = load_canvas(folder / "backgrounds.safetensors", recipe.backgrounds, recipe.seed)
    network = train_supervised(canvas, recipe, folder, device)
    write_transformer(network, ARCHITECTURE, SIZES, HALF, output)
    shipped = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    figures = {"accuracy": accuracy(shipped, recipe.scenes, HALF), "scenes": recipe.scenes}
    write_record(folder, output, "vit", recipe, data_hash(canvas), figures)


def train_supervised(canvas: Canvas, recipe: ViTRecipe, folder: Path, device: str) -> nn.Module:
    """Cross-entropy with smoothed labels, and of the mask, on scenes painted anew at each step."""
    torch.manual_seed(recipe.seed)
    model = Supervised().to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        picks = canvas.draw(BATCH, generator)
        scene = canvas.paint(picks, generator, relief=min(1.0, step / recipe.calm))
        with torch.autocast(device, torch.bfloat16):
            logits, mask = model(normalise(scene.images, HALF).to(device))
        labels, alpha = canvas.labels[picks].to(device), scene.alpha.to(device)
        named = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
        return named + F.binary_cross_entropy_with_logits(mask.float(), alpha)

    return train(model, loss_at, recipe.supervised, folder, "supervised").network
