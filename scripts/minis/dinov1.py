"""The DINO miniature: self-distilled with centring and sharpening, and a linear head on its frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attention_chains.data.digit_scenes import SIDE
from minis.canvas import Canvas, data_hash, load_canvas
from minis.distil import Distillation, agreement, draw_views, fit_head, frozen, rising
from minis.loop import Recipe, step_generator, train
from minis.vision import IMAGENET, PATCH, accuracy, new_transformer, write_record, write_transformer, write_weights

ARCHITECTURE = "vit_small_patch16_224"
SIZES = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "num_classes": 0,
}


@dataclass(frozen=True)
class DINORecipe:
    """Everything that decides the weights."""

    seed: int = 0
    backgrounds: int = 8000
    scenes: int = 1000  # held-out ones, of the card's accuracy
    prototypes: int = 64
    calm: int = 500  # steps in which scenes fade in and glyphs come to move
    temperature: float = 0.04  # of the teacher: sharpening
    centring: float = 0.9
    momentum: float = 0.98  # of the teacher, at first; 1 at the end
    patches: float = 0.5  # weight of the patches
    distilled: Recipe = Recipe(steps=1600, learning_rate=2e-3, weight_decay=0.05, muon=True, ema=0.0)
    head_scenes: int = 12_800


def build(folder: Path, output: Path, recipe: DINORecipe | None = None, device: str = "cpu") -> None:
    """Train (or resume) in `folder` and write the finished model and its linear head to `output`."""
    recipe = recipe or DINORecipe()
    folder.mkdir(parents=True, exist_ok=True)
    canvas = load_canvas(folder / "backgrounds.safetensors", recipe.backgrounds, recipe.seed)
    network = train_distilled(canvas, recipe, folder, device)
    write_transformer(network, ARCHITECTURE, SIZES, IMAGENET, output)
    features = frozen(output, patch_mean=False)
    weight, bias = (part.half().float() for part in fit_head(features, canvas, recipe.head_scenes, recipe.seed))
    write_weights({"module.linear.weight": weight, "module.linear.bias": bias}, output / "head.safetensors")
    named = accuracy(lambda pixels: features(pixels) @ weight.T + bias, recipe.scenes, IMAGENET)
    write_record(folder, output, "dinov1", recipe, data_hash(canvas), {"accuracy": named, "scenes": recipe.scenes})


def train_distilled(canvas: Canvas, recipe: DINORecipe, folder: Path, device: str) -> nn.Module:
    """The teacher of a self-distillation; no label is read."""
    torch.manual_seed(recipe.seed)
    model = Distillation(new_transformer(ARCHITECTURE, SIZES), recipe.prototypes).to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        student, teacher = (view.to(device) for view in draw_views(canvas, step, recipe.calm, generator))
        model.follow(rising(step, recipe.distilled.steps, recipe.momentum))
        with torch.autocast(device, torch.bfloat16):
            taught = model.teach(teacher)
            cls, patches = model.student(student)
            named = model.student.projector(cls)
            placed = model.student.patch_projector(patches.chunk(2)[1].flatten(0, 1))
        of_glyph, of_patches = (
            sharpen(cosines, centre, recipe) for cosines, centre in zip(taught, model.centres, strict=True)
        )
        return agreement(named, of_glyph.repeat(2, 1)) + recipe.patches * agreement(placed, of_patches)

    return train(model, loss_at, recipe.distilled, folder, "distilled").teacher.network


def sharpen(cosines: Tensor, centre: Tensor, recipe: DINORecipe) -> Tensor:
    """Targets (n, prototypes) of the teacher's cosines less their centre; the centre (prototypes,) then moves on."""
    targets = ((cosines - centre) / recipe.temperature).softmax(-1)
    centre.lerp_(cosines.mean(0), 1 - recipe.centring)
    return targets
