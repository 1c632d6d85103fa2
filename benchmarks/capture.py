"""What capturing attention costs: a forward pass with all attention captured and averaged, over the plain one.

    python benchmarks/capture.py [--rounds 15]

Both sides alternate in one run on one thread; printed are the median of the paired ratios and its quartiles. The ViT's
weights are random: only shapes matter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from time import perf_counter

import timm
import torch
from diffusers import FluxTransformer2DModel
from measure import one_thread

from attention_chains.capture import MeanAttention, capture
from attention_chains.models.assets import local_folder

BATCH, IMAGE_TOKENS, TEXT_TOKENS = 8, 256, 16
Forward = Callable[[], torch.Tensor]


def mini_flux() -> tuple[torch.nn.Module, Forward]:
    """The bundled FLUX miniature: 3 dual and 3 single blocks, 4 heads of 32, 272 tokens."""
    folder = local_folder("bundled:flux") / "transformer"
    model = FluxTransformer2DModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = {
        "hidden_states": torch.randn(BATCH, IMAGE_TOKENS, model.config.in_channels),
        "encoder_hidden_states": torch.randn(BATCH, TEXT_TOKENS, model.config.joint_attention_dim),
        "pooled_projections": torch.zeros(BATCH, model.config.pooled_projection_dim),
        "timestep": torch.full((BATCH,), 0.5),
        "img_ids": torch.zeros(IMAGE_TOKENS, 3),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
    }
    return model, partial(model, **inputs)


def vit_b16() -> tuple[torch.nn.Module, Forward]:
    """ViT-B/16 at 224 px: 12 blocks, 12 heads of 64, 197 tokens."""
    model = timm.create_model("vit_base_patch16_224").eval()
    return model, partial(model, torch.randn(BATCH, 3, 224, 224))


def averaged(model: torch.nn.Module, forward: Forward) -> None:
    """One forward pass whose attention is captured and averaged over all layers."""
    with capture(model, reduce=MeanAttention()):
        forward()


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = perf_counter()
    work()
    return perf_counter() - start


@torch.inference_mode()
def ratios(model: torch.nn.Module, forward: Forward, rounds: int) -> list[float]:
    """Captured over plain, once a round, after one round to warm up."""
    pairs = [(seconds(partial(averaged, model, forward)), seconds(forward)) for _ in range(rounds + 1)]
    return [captured / plain for captured, plain in pairs[1:]]


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    one_thread()
    torch.manual_seed(0)
    for name, build in {"mini FLUX": mini_flux, "ViT-B/16": vit_b16}.items():
        measured = ratios(*build(), rounds)
        low, _, high = quantiles(measured, n=4)
        print(f"{name}, batch {BATCH}: captured / plain = {median(measured):.2f} (quartiles {low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
