"""What every vision transformer is handed on as: a network to capture, its tokens, and its classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attention_chains.models.errors import AssetError
from attention_chains.models.preprocessing import Preprocessing


@dataclass
class Vision:
    """A loaded vision transformer, frozen: its parameters record no gradient.

    The tokens of its attention are `[CLS, registers, patches]`, patches row by row.

    Attributes
    ----------
    network : nn.Module
        The module to capture; of CLIP both towers, of which only the visual one runs.
    blocks : list of str
        Paths of the attention layers from the input side, as a capture of `network` names them.
    registers : int
        Tokens between CLS and the patches.
    grid : (int, int)
        Rows and columns of patches.
    classes : int
        Classes of the classifier, 0 without one.
    preprocess : Preprocessing
        What turns images into the network's input.
    run : callable
        Pixels (B, 3, S, S) through the network, for its attention.
    classify : callable or None
        Pixels (B, 3, S, S) to logits (B, classes), by one pass through the network.
    """

    network: nn.Module
    blocks: list[str]
    registers: int
    grid: tuple[int, int]
    classes: int
    preprocess: Preprocessing
    run: Callable[[Tensor], object]
    classify: Callable[[Tensor], Tensor] | None = None

    def pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        """Preprocess images as the checkpoint was trained to see them.

        Parameters
        ----------
        images
            B arrays (H, W, 3) uint8, of any sizes.

        Returns
        -------
        Tensor
            (B, 3, S, S), on the network's device and in its dtype. An image's pixels do not depend on the others'.

        Raises
        ------
        DataError
            An array is no such image, or is smaller than a patch.
        """
        parameter = next(self.network.parameters())
        return self.preprocess(images, parameter.device, parameter.dtype)

    def logits(self, pixels: Tensor) -> Tensor:
        """Class logits (B, classes) fp32 of `pixels` (B, 3, S, S), by one pass that a capture can watch and edit.

        Raises
        ------
        AssetError
            The model was loaded without a classifier.
        """
        if self.classify is None:
            raise AssetError("The model was loaded without a classifier: set model.head to its linear head.")
        return self.classify(pixels).float()

    def forward(self, pixels: Tensor) -> None:
        """Run the network alone on `pixels` (B, 3, S, S), for a capture: no classifier is needed."""
        self.run(pixels)


def frozen(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network in evaluation mode on its device, its parameters fixed: no pass records a graph."""
    return network.to(device=device, dtype=dtype).eval().requires_grad_(False)


def check_size(source: str, image_size: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of a square input.

    Raises
    ------
    AssetError
        The side is not a whole number of patches, or not even one.
    """
    if image_size < patch or image_size % patch:
        raise AssetError(
            f"model.image_size is {image_size}, but the patches of {source} are {patch} pixels wide: choose a multiple "
            "of that."
        )
    return image_size // patch, image_size // patch


def check_classes(source: str, named: int | None, outputs: int) -> None:
    """Hold a list of class names against a classifier's outputs.

    Parameters
    ----------
    source
        Where the classifier comes from.
    named
        Names in the list; None where there is none.
    outputs
        Classes of the classifier.

    Raises
    ------
    AssetError
        Their numbers differ.
    """
    if named is not None and named != outputs:
        raise AssetError(
            f"model.classes names {named} classes, but the classifier of {source} has {outputs}: name each once."
        )
