"""From an image to a network's input: resized, cropped and normalised as the checkpoint was trained to see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from attention_chains.data.errors import DataError
from attention_chains.models.errors import AssetError

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


def crop_of_256(image: Image.Image, side: int, interpolation: InterpolationMode) -> Image.Image:
    """Shorter side to 256/224 of `side`, then its centre: the evaluation of ImageNet (protocol 4.1)."""
    return center_crop(resize(image, [side * 256 // 224], interpolation), [side, side])


def crop(image: Image.Image, side: int, interpolation: InterpolationMode) -> Image.Image:
    """Shorter side to `side`, then its centre: CLIP's own (protocol 4.1)."""
    return center_crop(resize(image, [side], interpolation), [side, side])


def squash(image: Image.Image, side: int, interpolation: InterpolationMode) -> Image.Image:
    """Both sides to `side`, whatever the proportions: google/vit's processor (protocol 4.1)."""
    return resize(image, [side, side], interpolation)


def geometry(own: Callable, cropped: Callable, wanted: str | None) -> Callable:
    """Way to bring an image to a square: a family's `own`, or the one of that name.

    Parameters
    ----------
    own
        Where nobody wants another.
    cropped
        What "crop" means in the family: `crop_of_256` or `crop`.
    wanted
        None, "crop" or "squash".

    Raises
    ------
    AssetError
        There is no such way.
    """
    ways = {None: own, "crop": cropped, "squash": squash}
    if wanted not in ways:
        raise AssetError(f"model.resize is '{wanted}': choose squash or crop, or null for the model's own.")
    return ways[wanted]


@dataclass(frozen=True)
class Preprocessing:
    """Image arrays to normalised squares.

    Attributes
    ----------
    side : int
        Side of the square, pixels.
    patch : int
        Side of a patch, pixels: smaller images are refused.
    square : callable
        (image, side, interpolation) to an image of that side: `crop_of_256`, `crop` or `squash`.
    interpolation : InterpolationMode
        Of the resizing, which is antialiased.
    mean, std : (float, float, float)
        Of the channels in [0, 1].
    """

    side: int
    patch: int
    square: Callable[[Image.Image, int, InterpolationMode], Image.Image]
    interpolation: InterpolationMode
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Arrays (H, W, 3) uint8 of any sizes to one batch (B, 3, side, side), normalised in fp32, then cast.

        Raises
        ------
        DataError
            An array is no such image, or is smaller than a patch.
        """
        squares = np.stack([np.asarray(self._square(image)) for image in images])  # (B, side, side, 3)
        batch = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return ((batch - mean) / std).to(dtype)

    def _square(self, image: np.ndarray) -> Image.Image:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise DataError(
                f"An image is an array {image.shape} of {image.dtype}, but the model takes (height, width, 3) of "
                "uint8: convert it."
            )
        if min(image.shape[:2]) < self.patch:
            height, width = image.shape[:2]
            raise DataError(
                f"An image of {height} x {width} pixels is smaller than one patch of the model, which is {self.patch} "
                "pixels wide: leave it out."
            )
        return self.square(Image.fromarray(image), self.side, self.interpolation)
