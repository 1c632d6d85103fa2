"""Self-distillation, the part that the two DINO miniatures share: a student learns what its own slow average says.

No label is used. The views of a glyph are paintings of it in another colour, size, place and stroke. As in DINO the
teacher has the easier view: there a larger crop, here the glyph cut out, white on black, upright in the middle. The
student has two scenes and learns to say of them what the teacher says of the cut-out. Beside this, patch by patch, it
learns to say of a scene what the teacher says of the cut-out in the scene's own place. (With views that are all scenes,
or without the patches, a network of this size had hardly found the glyph after a thousand steps.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from attention_chains.data.digit_scenes import DIGITS
from minis.canvas import Canvas
from minis.loop import step_generator
from minis.vision import BATCH, GRID, IMAGENET, normalise

FAR = 10**6  # steps from here on are those of the linear head


class Projector(nn.Module):
    """From a token to its similarity with each of the prototypes, as in DINO: MLP, unit norm, unit-norm prototypes.

    Batch normalisation comes first (an option of DINO's head): without, targets turn uniform within a hundred steps.
    """

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(width, affine=False, track_running_stats=False)
        self.mlp = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototype_head = nn.Linear(64, prototypes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosines (n, prototypes) in [-1, 1], fp32, of tokens (n, width)."""
        with torch.autocast(tokens.device.type, enabled=False):
            return (
                F.normalize(self.mlp(self.batch_norm(tokens.float())), dim=-1)
                @ F.normalize(self.prototype_head.weight, dim=-1).T
            )


class Half(nn.Module):
    """Student or teacher: a network with two projectors, one for CLS and one for patches."""

    def __init__(self, network: nn.Module, prototypes: int) -> None:
        super().__init__()
        self.network = network
        self.projector = Projector(network.embed_dim, prototypes)
        self.patch_projector = Projector(network.embed_dim, prototypes)
        self.hidden_embed = nn.Parameter(torch.zeros(network.embed_dim))

    def forward(self, pixels: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """CLS (B, width) and patches (B, 64, width) after the final norm; patches marked in `hidden` are covered."""
        network = self.network
        patches = network.patch_embed(pixels)
        if hidden is not None:
            patches = torch.where(hidden[..., None], self.hidden_embed.to(patches.dtype), patches)
        tokens = network.norm(network.blocks(network._pos_embed(patches)))
        return tokens[:, 0], tokens[:, network.num_prefix_tokens :]


class Distillation(nn.Module):
    """A student, and a teacher that follows it and is what is kept."""

    def __init__(self, network: nn.Module, prototypes: int) -> None:
        super().__init__()
        self.student = Half(network, prototypes)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centres", torch.zeros(2, prototypes))  # of DINO, for CLS and for patches

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher to the student by 1 - momentum."""
        for mean, parameter in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mean.lerp_(parameter, 1 - momentum)

    @torch.no_grad()
    def teach(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of the teacher: of the first half's CLS (B / 2, K), of the second half's patches (32 B, K)."""
        cls, patches = self.teacher(pixels)
        return self.teacher.projector(cls.chunk(2)[0]), self.teacher.patch_projector(patches.chunk(2)[1].flatten(0, 1))


def rising(step: int, steps: int, low: float, high: float = 1.0) -> float:
    """From `low` to `high` along half a cosine; `high` from step `steps` on."""
    return high - (high - low) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


class Views(NamedTuple):
    """Pixels (B, 3, 64, 64) of the student: scenes half faded in, and scenes; of the teacher: cut-outs, see below."""

    student: Tensor
    teacher: Tensor


def draw_views(canvas: Canvas, step: int, calm: int, generator: torch.Generator) -> Views:
    """Four views of each of B / 2 glyphs, scenes fading in and glyphs coming to move up to step `calm`.

    The student has a scene that is faded in to a random share, and a scene. The teacher has cut-outs: upright in the
    middle, and in the place that the glyph has in the student's second view.
    """
    picks, ease = canvas.draw(BATCH // 2, generator), min(1.0, step / calm)
    painted = canvas.paint(picks.repeat(2), generator, spread=ease)
    cut_outs = _cut_out(painted.alpha)
    fade = torch.full((BATCH, 1, 1, 1), ease)
    fade[: BATCH // 2] *= torch.rand(BATCH // 2, 1, 1, 1, generator=generator)
    upright = _cut_out(canvas.paint(picks, generator, spread=0.0).alpha)
    student, teacher = torch.lerp(cut_outs, painted.images, fade), torch.cat([upright, cut_outs[BATCH // 2 :]])
    return Views(normalise(student, IMAGENET), normalise(teacher, IMAGENET))


def _cut_out(alpha: Tensor) -> Tensor:
    return (255 * alpha[:, None]).expand(-1, 3, -1, -1)


def agreement(student: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy of the student's cosines with targets (n, prototypes)."""
    return -(targets * F.log_softmax(student / temperature, -1)).sum(-1).mean()


# --- the linear head ----------------------------------------------------------------------------------------------


def fit_head(features: Callable[[Tensor], Tensor], canvas: Canvas, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logistic regression of the label on frozen features of `count` painted training scenes: weight and bias."""
    inputs, labels = [], []
    for first in range(0, count, BATCH):
        generator = step_generator(seed, FAR + first)
        picks = canvas.draw(BATCH, generator)
        inputs.append(features(normalise(canvas.paint(picks, generator).images, IMAGENET)).numpy())
        labels.append(canvas.labels[picks].numpy())
    stacked = np.concatenate(inputs).astype(np.float64)
    mean, deviation = stacked.mean(0), stacked.std(0) + 1e-6
    fitted = LogisticRegression(C=0.05, max_iter=500).fit((stacked - mean) / deviation, np.concatenate(labels))
    assert len(fitted.classes_) == len(DIGITS)
    weight = fitted.coef_ / deviation  # the scaling becomes part of the layer
    bias = fitted.intercept_ - weight @ mean
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def frozen(folder: Path, patch_mean: bool) -> Callable[[Tensor], Tensor]:
    """Load a finished network: pixels -> normed CLS of the last four blocks and, if asked, the last patches' mean."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    @torch.no_grad()
    def features(pixels: Tensor) -> Tensor:
        layers = network.get_intermediate_layers(pixels, n=4, return_prefix_tokens=True, norm=True)
        parts = [prefix[:, 0] for _, prefix in layers]
        return torch.cat([*parts, layers[-1][0].mean(1)] if patch_mean else parts, -1)

    return features


def hide(count: int, generator: torch.Generator, low: float = 0.1, high: float = 0.5) -> Tensor:
    """Which patches of `count` images are hidden (count, 64): in half of the images none, in half a random share."""
    share = torch.empty(count, 1).uniform_(low, high, generator=generator)
    share *= torch.rand(count, 1, generator=generator) < 0.5
    return torch.rand(count, GRID * GRID, generator=generator) < share
