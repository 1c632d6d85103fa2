"""All self-attention of a diffusion model at one time step, aggregated into one chain over the latent's cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_chains.capture import Call, CaptureError, capture

if TYPE_CHECKING:
    from attention_chains.models.sd15 import StableDiffusion

Size = tuple[int, int]
TIMESTEP = 300
OFF = 1e-4  # of a row's sum from one, after a softmax in fp32


class ResolutionMeans:
    """Mean of the heads of all layers whose maps have one size, for every size: layers count alike, and so do heads.

    Give it to `capture` as `reduce`. Held are one matrix (B, n, n) for each size, and one head while it is added.

    Parameters
    ----------
    sizes : mapping of str to (int, int)
        Height and width of the tokens of every layer that will be called, each once.
    """

    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self._sizes = dict(sizes)
        self._layers = Counter(self._sizes.values())
        self._sums: dict[Size, Tensor] = {}

    def __call__(self, call: Call) -> None:
        """Add the heads of one call.

        Raises
        ------
        CaptureError
            Its attention is not over the tokens of such a map.
        """
        size = self._sizes[call.layer]
        if not call.q.shape[-2] == call.k.shape[-2] == prod(size):
            raise CaptureError(
                f"Layer '{call.layer}' attends from {call.q.shape[-2]} to {call.k.shape[-2]} tokens, but its map of "
                f"{size[0]} x {size[1]} has {prod(size)}: choose self-attention layers, and their own sizes."
            )
        head = None
        for index in range(call.heads):
            head = call.matrix(index, out=head)
            if size not in self._sums:
                self._sums[size] = torch.zeros_like(head)
            self._sums[size].add_(head, alpha=1 / (call.heads * self._layers[size]))

    def maps(self) -> dict[Size, Tensor]:
        """The means: (B, h * w, h * w) by (h, w), on the model's device; handed over, and not held here any longer."""
        maps, self._sums = self._sums, {}
        return maps


def aggregate(maps: Mapping[Size, Tensor]) -> Tensor:
    """Bring the maps of all resolutions to the finest one and average them (protocol 3.1).

    A coarse map grows bilinearly and is divided by its sum; a fine query takes the map of the coarse one that it lies
    in. A resolution weighs as much as its side: 64, 32, 16, 8 of 120 in SD 1.5. Neither the sizes nor their number is
    given, and none needs to be a multiple of another.

    Parameters
    ----------
    maps
        By height and width (h, w): (B, h * w, h * w), rows sum to one.

    Returns
    -------
    Tensor
        (B, n, n) of the maps' dtype and device, n = height * width of the finest: rows sum to one.

    Raises
    ------
    CaptureError
        A row does not sum to one, or is NaN.
    """
    _check_rows(maps)
    finest = max(maps, key=prod)
    whole = sum(sqrt(prod(size)) for size in maps)
    total = torch.zeros_like(maps[finest])
    for size, fine in maps.items():
        _add(total, fine, size, finest, sqrt(prod(size)) / whole)
    return total


def _add(total: Tensor, maps: Tensor, size: Size, finest: Size, weight: float) -> None:
    """Add maps (B, h w, h w), grown to the finest size, one row of queries at a time: no second (B, n, n) is held."""
    width, (rows, columns) = finest[1], (_parents(size[axis], finest[axis]) for axis in (0, 1))
    within = torch.tensor(columns, device=maps.device)
    cells = maps.unflatten(1, size)  # (B, h, w, h w)
    for parent, children in groupby(range(finest[0]), key=rows.__getitem__):
        grown = weight * _grown(cells[:, parent], size, finest)[:, within]  # (B, width, n)
        for child in children:
            total[:, child * width : (child + 1) * width] += grown


def _grown(maps: Tensor, size: Size, finest: Size) -> Tensor:
    """Maps (B, w, h * w) at the finest size, each summing to one: (B, w, n)."""
    grown = F.interpolate(maps.unflatten(-1, size), size=finest, mode="bilinear", align_corners=False).flatten(-2)
    return grown / grown.sum(-1, keepdim=True)


def _parents(coarse: int, fine: int) -> list[int]:
    """Which coarse cell the centre of each fine cell lies in, along one axis."""
    return [(2 * cell + 1) * coarse // (2 * fine) for cell in range(fine)]


def _check_rows(maps: Mapping[Size, Tensor]) -> None:
    off = torch.stack([(each.sum(-1) - 1).abs().max() for each in maps.values()]).tolist()
    for size, worst in zip(maps, off, strict=True):
        if not worst <= OFF:
            raise CaptureError(
                f"Attention over {size[0]} x {size[1]} tokens has a row whose sum is off by {worst:.3g}: the model "
                "gave NaN or infinite numbers; repair its weights, or set model.dtype=float32."
            )


@torch.inference_mode()
def read_tensor(model: StableDiffusion, images: Sequence[np.ndarray], timestep: int = TIMESTEP) -> Tensor:
    """Aggregated self-attention of one unconditional pass over images to which no noise is added (protocol 3.1).

    Parameters
    ----------
    model
        A loaded Stable Diffusion.
    images
        B arrays (H, W, 3) uint8.
    timestep
        Time step that the model is told.

    Returns
    -------
    Tensor
        (B, n, n) fp32 on the model's device, n cells of the latent row by row; rows sum to one.

    Raises
    ------
    CaptureError
        The attention holds NaN.
    """
    latents = model.encode(images, posterior="mean")
    sizes = _sizes(model, tuple(latents.shape[-2:]))
    means = ResolutionMeans(sizes)
    with capture(model.pipe.unet, layers=list(sizes), reduce=means):
        model.predict(latents, timestep, model.context([""] * len(images)))
    return aggregate(means.maps())


def _sizes(model: StableDiffusion, latent: Size) -> dict[str, Size]:
    """Rows and columns of tokens of every self-attention layer, by its path."""
    layers = model.layers()
    examples = {factor: layer for layer, factor in layers.items()}
    sizes = {factor: model.map_size(layer, latent) for factor, layer in examples.items()}
    return {layer: sizes[factor] for layer, factor in layers.items()}
