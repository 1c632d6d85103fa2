"""Training scenes painted anew at each step: a training glyph in some colour, size and place on a training photograph.

The scenes of `data.digit_scenes` pair a fixed glyph, colour and background once; here the same glyphs and backgrounds
of the training split are paired a batch at a time, so that the few glyphs (1497) go further: turned, sheared and drawn
thicker or thinner. Painting one glyph twice gives two views that have nothing but the glyph in common.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from attention_chains.data.digit_scenes import COLOURS, SIDE, background, handwritten_digits

SIDES = (34, 50)  # of a glyph's box, as in a scene with one object
TURN, SHEAR = 0.2, 0.15  # radians; shift of a row for each row, both ways
INK = torch.tensor(list(COLOURS.values()), dtype=torch.float32)  # (8, 3)


class Painting(NamedTuple):
    """A batch of scenes: images (B, 3, 64, 64) fp32 in [0, 255], opacity (B, 64, 64), colours (B,) of COLOURS."""

    images: Tensor
    alpha: Tensor
    colours: Tensor


@dataclass(frozen=True)
class Canvas:
    """Glyphs (G, 64, 64) in [0, 1], their labels (G,), and backgrounds (N, 3, 64, 64) uint8."""

    glyphs: Tensor
    labels: Tensor
    backgrounds: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of `count` glyphs (count,)."""
        return torch.randint(len(self.glyphs), (count,), generator=generator)

    def paint(self, picks: Tensor, generator: torch.Generator, relief: float = 1.0, spread: float = 1.0) -> Painting:
        """Paint the picked glyphs (B,).

        `relief` multiplies the contrast of the backgrounds, `spread` how far sizes, places, turns and strokes lie from
        the middle of their ranges; at zero both leave the glyph alone.
        """
        alpha = self._alpha(picks, generator, spread)
        behind = self.backgrounds[torch.randint(len(self.backgrounds), picks.shape, generator=generator)].float()
        flip = torch.rand(len(picks), generator=generator) < 0.5
        behind = torch.where(flip[:, None, None, None], behind.flip(-1), behind) * 0.75 + 30
        behind = torch.lerp(behind.mean((2, 3), keepdim=True), behind, relief)
        colours = torch.randint(len(INK), picks.shape, generator=generator)
        ink = INK[colours] + torch.empty(len(picks), 3).uniform_(-12, 12, generator=generator)
        images = torch.lerp(behind, ink[..., None, None], alpha[:, None]).clamp(0, 255)
        return Painting(images, alpha, colours)

    def _alpha(self, picks: Tensor, generator: torch.Generator, spread: float) -> Tensor:
        """Opacity (B, 64, 64) of the picked glyphs, each turned, sheared and put somewhere."""

        def between(low: float, high: float) -> Tensor:
            drawn = torch.empty(len(picks)).uniform_(low, high, generator=generator)
            return torch.lerp(torch.full_like(drawn, (low + high) / 2), drawn, spread)

        side, turn, shear = between(*SIDES) / SIDE, between(-TURN, TURN), between(-SHEAR, SHEAR)
        centre = torch.stack([between(-1, 1), between(-1, 1)], -1) * (1 - side)[:, None]  # the box stays in the frame
        cos, sin = turn.cos() / side, turn.sin() / side
        inverse = torch.stack([cos, sin + shear * cos, -sin, cos - shear * sin], -1).view(-1, 2, 2)
        theta = torch.cat([inverse, -inverse @ centre[..., None]], -1)  # (B, 2, 3): a pixel's place in its glyph
        grid = F.affine_grid(theta, [len(picks), 1, SIDE, SIDE], align_corners=False)
        glyphs = F.grid_sample(self.glyphs[picks][:, None], grid, align_corners=False)[:, 0]
        threshold, contrast = between(0.2, 0.38)[:, None, None], between(2.5, 3.5)[:, None, None]
        return ((glyphs - threshold) * contrast).clamp(0, 1)


def load_canvas(path: Path, backgrounds: int, seed: int) -> Canvas:
    """Glyphs and backgrounds of the training split; the backgrounds are made once and kept at `path`."""
    images, labels = handwritten_digits("train")
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
    if not path.exists():
        crops = [_crop(seed, index) for index in tqdm(range(backgrounds), desc=path.stem, unit="crop")]
        save_file({"backgrounds": torch.stack(crops)}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    glyphs = torch.from_numpy(np.stack(large))
    return Canvas(glyphs, torch.from_numpy(labels.copy()), load_file(path)["backgrounds"])


def _crop(seed: int, index: int) -> Tensor:
    crop = background("train", np.random.default_rng([seed, index]))
    return torch.from_numpy(crop.round().astype(np.uint8)).permute(2, 0, 1).contiguous()


def data_hash(canvas: Canvas) -> str:
    """SHA-256 (hex) over glyphs, labels and backgrounds."""
    digest = hashlib.sha256()
    for part in (canvas.glyphs, canvas.labels, canvas.backgrounds):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()
