"""What vision transformers' rankings cost, each over a plain forward pass of the same images: ViT-B/16 at 224 pixels.

    python benchmarks/vision.py [--rounds 9]

TokenRank of every head and layer (20 bounces, in a capture); one forward pass in which TokenRank masks half of the
patches in the first half of the blocks; lambda2 of every head and layer of one image. The sides alternate in one run on
one thread; printed are the median of the paired ratios, its quartiles, and the most it may be. The weights are random:
only shapes matter, except for lambda2, which takes longer for heads that mix slowly.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median, quantiles

import timm
import torch
from measure import Work, in_turn, one_thread
from torch import Tensor

from attention_chains import methods
from attention_chains.capture import Call, capture
from attention_chains.models.patch_attention import PatchAttention
from attention_chains.models.vision import Vision
from attention_chains.tasks.masked_pass import Batch, Strategy, masked_logits

BATCH, GRID = 8, (14, 14)
LIMITS = {"TokenRank of all heads": 1.25, "masking at one fraction": 1.6, "lambda2 of all heads of an image": 2.0}
RANKING = methods.bind("tokenrank", {"power": 20}, kind="ranking")


def vit_b16(depth: int) -> Vision:
    """ViT-B/16 with random weights: blocks of 12 heads of 64, 197 tokens."""
    network = timm.create_model("vit_base_patch16_224", depth=depth).eval().requires_grad_(False)
    blocks = [f"blocks.{block}.attn" for block in range(depth)]
    return Vision(network, blocks, 0, GRID, 1000, preprocess=None, run=network.forward_features, classify=network)


def captured(vision: Vision, pixels: Tensor, reduce: object) -> None:
    """One forward pass whose attention is reduced as it goes."""
    with capture(vision.network, vision.blocks, reduce=reduce):
        vision.logits(pixels)


def tokenrank(call: Call) -> Tensor:
    """TokenRank of every head."""
    return RANKING(PatchAttention.from_call(call, 0, GRID), ())


def lambda2(call: Call) -> Tensor:
    """lambda2 of every head, CLS cut."""
    return PatchAttention.from_call(call, 0, GRID).chain.lambda2()


def masked(vision: Vision, pixels: Tensor) -> None:
    """One forward pass of images that are new to the strategy, half of their patches masked."""
    strategy = Strategy(RANKING, vision.blocks[: len(vision.blocks) // 2])
    masked_logits(vision, Batch(pixels, [str(index) for index in range(len(pixels))]), strategy, [0.5])


def works(vision: Vision, pixels: Tensor) -> dict[str, Work]:
    """The plain passes, and what is measured against them."""
    plain, one = partial(vision.logits, pixels), partial(vision.logits, pixels[:1])
    names = iter(LIMITS)
    return {
        "plain": plain,
        next(names): partial(captured, vision, pixels, tokenrank),
        next(names): partial(masked, vision, pixels),
        "plain, one image": one,
        next(names): partial(captured, vision, pixels[:1], lambda2),
    }


@torch.inference_mode()
def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--depth", type=int, default=12, help="blocks; fewer for a quick look")
    arguments = parser.parse_args()
    one_thread()
    torch.manual_seed(0)
    times = in_turn(works(vit_b16(arguments.depth), torch.randn(BATCH, 3, 224, 224)), arguments.rounds, "cpu")
    for name, limit in LIMITS.items():
        plain = times["plain, one image" if "an image" in name else "plain"]
        ratios = [slow / fast for slow, fast in zip(times[name], plain, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        print(f"{name} / plain = {median(ratios):.2f} (quartiles {low:.2f}-{high:.2f}), at most {limit}")


if __name__ == "__main__":
    main()
