"""The DINOv2 miniature: four registers, targets balanced by Sinkhorn-Knopp, hidden patches, KoLeo, a linear head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_chains.data.digit_scenes import SIDE
from minis.canvas import Canvas, data_hash, load_canvas
from minis.distil import Distillation, agreement, draw_views, fit_head, frozen, hide, rising
from minis.loop import Recipe, step_generator, train
from minis.vision import (
    IMAGENET,
    PATCH,
    accuracy,
    new_transformer,
    write_record,
    write_transformer,
    write_weights,
)

ARCHITECTURE = "vit_small_patch14_reg4_dinov2"
SIZES = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "num_classes": 0,
    "init_values": 1.0,
}


@dataclass(frozen=True)
class DINOv2Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    backgrounds: int = 8000
    scenes: int = 1000  # held-out ones, of the card's accuracy
    prototypes: int = 64
    calm: int = 500  # steps in which scenes fade in and glyphs come to move
    temperature: float = 0.05  # of the teacher
    momentum: float = 0.98  # of the teacher, at first; 1 at the end
    patches: float = 0.5  # weight of the patches
    koleo: float = 0.1  # weight of KoLeo
    distilled: Recipe = Recipe(steps=1600, learning_rate=2e-3, weight_decay=0.05, muon=True, ema=0.0)
    head_scenes: int = 12_800


def build(folder: Path, output: Path, recipe: DINOv2Recipe | None = None, device: str = "cpu") -> None:
    """Train (or resume) in `folder` and write the finished model and its linear head to `output`."""
    recipe = recipe or DINOv2Recipe()
    folder.mkdir(parents=True, exist_ok=True)
    canvas = load_canvas(folder / "backgrounds.safetensors", recipe.backgrounds, recipe.seed)
    network = train_distilled(canvas, recipe, folder, device)
    write_transformer(network, ARCHITECTURE, SIZES, IMAGENET, output)
    features = frozen(output, patch_mean=True)
    weight, bias = (part.half().float() for part in fit_head(features, canvas, recipe.head_scenes, recipe.seed))
    write_weights({"weight": weight, "bias": bias}, output / "head.safetensors")
    named = accuracy(lambda pixels: features(pixels) @ weight.T + bias, recipe.scenes, IMAGENET)
    write_record(folder, output, "dinov2", recipe, data_hash(canvas), {"accuracy": named, "scenes": recipe.scenes})


def train_distilled(canvas: Canvas, recipe: DINOv2Recipe, folder: Path, device: str) -> nn.Module:
    """The teacher of a self-distillation; no label is read."""
    torch.manual_seed(recipe.seed)
    network = new_transformer(ARCHITECTURE, SIZES)
    nn.init.normal_(network.reg_token, std=0.5)  # all alike, they would stay alike
    model = Distillation(network, recipe.prototypes).to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        student, teacher = (view.to(device) for view in draw_views(canvas, step, recipe.calm, generator))
        hidden = hide(len(student), generator).to(device)
        model.follow(rising(step, recipe.distilled.steps, recipe.momentum))
        with torch.autocast(device, torch.bfloat16):
            of_glyph, of_patches = (balance(cosines, recipe.temperature) for cosines in model.teach(teacher))
            cls, patches = model.student(student, hidden)
            named = model.student.projector(cls)
            placed = model.student.patch_projector(patches.chunk(2)[1].flatten(0, 1))
        apart = sum(koleo(view.float()) for view in cls.chunk(2)) / 2
        told = agreement(named, of_glyph.repeat(2, 1)) + recipe.patches * agreement(placed, of_patches)
        return told + recipe.koleo * apart

    return train(model, loss_at, recipe.distilled, folder, "distilled").teacher.network


def balance(scores: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Sinkhorn-Knopp: targets (n, prototypes) whose rows sum to 1 and in which all prototypes weigh about the same."""
    weights = ((scores - scores.max()) / temperature).exp()
    for _ in range(rounds):
        weights = F.normalize(F.normalize(weights, p=1, dim=0), p=1, dim=1)
    return weights


def koleo(features: Tensor) -> Tensor:
    """Mean negative log distance (n, width) to the nearest other on the unit sphere: spreads features evenly."""
    unit = F.normalize(features, dim=-1)
    with torch.no_grad():
        similar = unit @ unit.T
        nearest = similar.fill_diagonal_(-2).argmax(1)
    return -(unit - unit[nearest]).norm(dim=-1).clamp_min(1e-6).log().mean()
