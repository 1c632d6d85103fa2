"""Vision transformers from timm's folders: config.json beside model.safetensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attention_chains.models.assets import first_complaint, first_line, local_folder
from attention_chains.models.errors import AssetError
from attention_chains.models.layouts import TIMM
from attention_chains.models.vision import check_size, frozen

Resample = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm's and what its folder says of it.

    Attributes
    ----------
    network : VisionTransformer
        Frozen, its position embeddings fitted to the grid.
    grid : (int, int)
        Rows and columns of patches.
    mean, std : (float, float, float)
        Of the channels in [0, 1], which the checkpoint was trained with.
    """

    network: VisionTransformer
    grid: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def blocks(self) -> list[str]:
        """Paths of the attention layers, from the input side."""
        return [f"blocks.{index}.attn" for index in range(len(self.network.blocks))]

    @property
    def registers(self) -> int:
        """Tokens between CLS and the patches."""
        return self.network.num_prefix_tokens - 1

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return self.network.patch_embed.patch_size[0]


def load_timm(
    source: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    image_size: int,
    resample: Resample | None = None,
) -> TimmNetwork:
    """Load a vision transformer at any image size.

    Parameters
    ----------
    source, revision
        Folder, or Hugging Face repository and commit.
    device, dtype
        Where and in which precision it runs.
    image_size
        Side of the square input, pixels.
    resample
        Patches' position embeddings (1, D, h, w) to another grid's; None: timm's way, bicubic with antialias.

    Raises
    ------
    AssetError
        The folder is no such network, or the weights, the config and the image size do not fit each other.
    """
    folder = local_folder(source, revision, TIMM)
    network, weights = _network(source, folder), _weights(source, folder)
    _check_grid(source, network, weights)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise AssetError(
            f"The weights of {source} are not those of its config.json ({first_complaint(error)}): copy or download "
            "both again."
        ) from error
    grid = check_size(source, image_size, network.patch_embed.patch_size[0])
    _fit(network.float(), grid, resample)
    mean, std = (tuple(network.pretrained_cfg[name]) for name in ("mean", "std"))
    return TimmNetwork(frozen(network, device, dtype), grid, mean, std)


def _network(source: str, folder: Path) -> VisionTransformer:
    try:
        with torch.device("meta"):  # the random weights would only be thrown away
            network = timm.create_model(f"local-dir:{folder}")
    except Exception as error:  # whatever a constructor makes of wrong arguments
        raise AssetError(
            f"The config.json of {source} makes no network of timm's ({first_line(error)}): copy or download it again."
        ) from error
    if not isinstance(network, VisionTransformer) or network.cls_token is None or network.pos_embed is None:
        raise AssetError(
            f"The config.json of {source} makes a {type(network).__name__} that is no vision transformer with a CLS "
            "token and position embeddings: choose another model.source."
        )
    return network


def _weights(source: str, folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise AssetError(
            f"The model.safetensors of {source} cannot be read ({first_line(error)}): copy or download it again."
        ) from error


def _check_grid(source: str, network: VisionTransformer, weights: dict[str, Tensor]) -> None:
    wanted, there = network.pos_embed.shape, weights.get("pos_embed", network.pos_embed).shape
    if wanted[1] != there[1]:
        raise AssetError(
            f"The weights of {source} have {there[1]} position embeddings, but the grid of its config.json takes "
            f"{wanted[1]}: give it the config that belongs to the weights."
        )


def _fit(network: VisionTransformer, grid: tuple[int, int], resample: Resample | None) -> None:
    """Bring the network to another grid; the position of CLS stays."""
    old, own = network.pos_embed.detach(), network.patch_embed.grid_size
    if tuple(own) == grid:
        return
    side = grid[0] * network.patch_embed.patch_size[0]
    network.set_input_size((side, side))
    if resample is None:
        return
    first = 0 if network.no_embed_class else network.num_prefix_tokens
    maps = old[:, first:].unflatten(1, own).permute(0, 3, 1, 2)  # (1, D, h, w)
    moved = resample(maps, grid).flatten(2).mT  # (1, patches, D)
    network.pos_embed = nn.Parameter(torch.cat([old[:, :first], moved], dim=1))
