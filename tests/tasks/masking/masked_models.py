"""Small vision transformers with random weights, and token masking written out for them, image by image in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import open_clip
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attention_chains.models.vision import Vision

SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 24, 6, 32, 4, 4, 10
GRID, PATCHES = (4, 4), 16
FRACTIONS = [index / 20 for index in range(21)]

Ranking = Callable[[np.ndarray], np.ndarray]  # logits (T, T) of a head to scores of the patches


def sharpened(network: nn.Module, seed: int) -> nn.Module:
    """Redraw all weights, large enough for heads that attend to few tokens."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        scale = 0.3 if parameter.ndim > 1 else 0.2
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return network.eval().requires_grad_(False)


def pixels_of(images: list[np.ndarray]) -> Tensor:
    """Normalise (64, 64, 3) uint8 images to (B, 3, 24, 24) fp64: every other pixel of their middle."""
    return torch.from_numpy(np.stack(images)[:, 8:56:2, 8:56:2]).permute(0, 3, 1, 2).double() / 64 - 2


def timm_vision(registers: int = 0, dtype: torch.dtype = torch.float64) -> Vision:
    """A timm ViT of 4 blocks and 4 heads with 16 patches."""
    network = VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=CLASSES,
        reg_tokens=registers, mlp_ratio=2, no_embed_class=registers > 0,
    )  # fmt: skip
    network = sharpened(network.double(), seed=registers).to(dtype)
    blocks = [f"blocks.{block}.attn" for block in range(DEPTH)]
    return Vision(
        network, blocks, registers, GRID, CLASSES, lambda images, *_: pixels_of(images).to(dtype), network, network
    )


def clip_vision() -> Vision:
    """The visual tower of an open_clip model, as a module below the network, its output read as classes."""
    tower = open_clip.transformer.VisionTransformer(
        image_size=SIDE, patch_size=PATCH, width=WIDTH, layers=DEPTH, heads=HEADS, mlp_ratio=2, output_dim=CLASSES
    )
    network = nn.ModuleDict({"visual": sharpened(tower.double(), seed=2)})
    blocks = [f"visual.transformer.resblocks.{block}.attn" for block in range(DEPTH)]
    return Vision(network, blocks, 0, GRID, CLASSES, lambda images, *_: pixels_of(images), tower, tower)


VISIONS = {"timm": timm_vision, "registers": lambda: timm_vision(registers=2), "open_clip": clip_vision}


@dataclass
class WrittenOut:
    """A tower taken apart: what comes before the blocks, the parts of each block, and what comes after."""

    embed: Callable[[Tensor], Tensor]
    blocks: list[tuple]  # norm, (weight, bias) of q k v, projection, norm, MLP
    classify: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, vision: Vision) -> WrittenOut:
        """Take one of `VISIONS` apart."""
        return _timm(vision.network) if hasattr(vision.network, "blocks") else _open_clip(vision.network["visual"])


def _timm(network: nn.Module) -> WrittenOut:
    def embed(pixels: Tensor) -> Tensor:
        patches = network.patch_embed(pixels)
        extra = [network.cls_token] + ([network.reg_token] if network.reg_token is not None else [])
        if network.no_embed_class:
            return torch.cat([*extra, patches + network.pos_embed], 1)
        return torch.cat([*extra, patches], 1) + network.pos_embed

    blocks = [
        (block.norm1, (block.attn.qkv.weight, block.attn.qkv.bias), block.attn.proj, block.norm2, block.mlp)
        for block in network.blocks
    ]
    return WrittenOut(embed, blocks, lambda x: network.head(network.norm(x)[:, 0]))


def _open_clip(tower: nn.Module) -> WrittenOut:
    def embed(pixels: Tensor) -> Tensor:
        patches = tower.conv1(pixels).flatten(2).mT
        tokens = torch.cat([tower.class_embedding.expand(len(patches), 1, -1), patches], 1)
        return tower.ln_pre(tokens + tower.positional_embedding)

    blocks = [
        (block.ln_1, (block.attn.in_proj_weight, block.attn.in_proj_bias), block.attn.out_proj, block.ln_2, block.mlp)
        for block in tower.transformer.resblocks
    ]
    return WrittenOut(embed, blocks, lambda x: tower.ln_post(x)[:, 0] @ tower.proj)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of exponentials over their sums."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reference(
    vision: Vision,
    pixels: Tensor,
    ranking: Callable[[np.ndarray, int, int], np.ndarray],
    counts: Callable[[list[np.ndarray], int], list[int]],
    masked_blocks: int,
) -> np.ndarray:
    """Class logits of one image (3, S, S), every head of the first blocks masked by the step list of protocol 4.2.

    `ranking(logits (T, T), block, head)` scores all patches; `counts(logits of the heads, block)` says how many each
    head masks.
    """
    parts, first = WrittenOut.of(vision), 1 + vision.registers
    x = parts.embed(pixels[None])
    for number, (norm1, (weight, bias), project, norm2, mlp) in enumerate(parts.blocks):
        q, k, v = (norm1(x)[0] @ weight.T + bias).numpy().reshape(-1, 3, HEADS, WIDTH // HEADS).transpose(1, 2, 0, 3)
        logits = [q[head] @ k[head].T / np.sqrt(WIDTH // HEADS) for head in range(HEADS)]
        if number < masked_blocks:
            for head, count in enumerate(counts([each.copy() for each in logits], number)):
                scores = ranking(logits[head].copy(), number, head)
                by_score = sorted(range(PATCHES), key=lambda patch: -scores[patch])
                for patch in by_score[:count]:
                    logits[head][:, first + patch] = -inf
        mixed = np.concatenate([softmax(logits[head]) @ v[head] for head in range(HEADS)], -1)
        x = x + project(torch.from_numpy(mixed))
        x = x + mlp(norm2(x))
    return parts.classify(x)[0].numpy()
