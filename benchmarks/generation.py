"""What TokenRank costs self-attention guidance: images of one batch by both methods, in turn, on the bundled miniature.

    python benchmarks/generation.py [--rounds 9] [--batch 25] [--device cuda] [--source <folder>]

SAG with TokenRank, SAG with column sums and the plain sampler start from the same latents; they alternate in one run on
one thread. Printed are the median of the paired ratios, its quartiles, and the ratio of the fastest rounds, which other
work on the machine disturbs least; TokenRank may cost 1.03 times column sums.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median, quantiles

import torch
from measure import Work, in_turn, one_thread

from attention_chains import methods, models
from attention_chains.tasks.sampling import Guidance, sample

LIMIT = 1.03
GUIDANCE = Guidance("up_blocks.2.attentions.2", cap=0.4)


def works(arguments: argparse.Namespace) -> dict[str, Work]:
    """One batch of images by each method."""
    model = models.load(
        "sd15",
        source=arguments.source,
        revision=None,
        device=torch.device(arguments.device),
        dtype=torch.float32,
        image_size=arguments.size,
        steps=arguments.steps,
    )
    latents, prompts = model.noise(range(arguments.batch)), [""] * arguments.batch
    bound = {name: methods.bind(name, {}, kind="saliency") for name in ("none", "sag_column_sum", "sag_tokenrank")}
    return {name: partial(sample, model, latents, prompts, GUIDANCE, saliency) for name, saliency in bound.items()}


def report(times: dict[str, list[float]], slow: str, fast: str, limit: str) -> None:
    """Print how many times as long one method takes as another."""
    ratios = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    low, _, high = quantiles(ratios, n=4)
    fastest = min(times[slow]) / min(times[fast])
    print(f"{slow} / {fast} = {median(ratios):.3f} (quartiles {low:.3f}-{high:.3f}), fastest {fastest:.3f}{limit}")


def main() -> None:
    """Print one line a ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=25, help="images at once")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", type=int, default=64, help="side of an image, pixels")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--source", default="bundled:sd15", help="folder of another pipeline")
    arguments = parser.parse_args()
    one_thread()
    times = in_turn(works(arguments), max(2, arguments.rounds), arguments.device)
    report(times, "sag_tokenrank", "sag_column_sum", f", at most {LIMIT}")
    report(times, "sag_column_sum", "none", "")


if __name__ == "__main__":
    main()
