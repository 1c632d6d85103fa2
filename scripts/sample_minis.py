"""Draw what a generating miniature makes of 16 captions: `sample_minis.py flux` or `sd15` -> results/minis/NAME.png.

The bundled ViT, which names the digits of real scenes, says how many it recognises; `--rounds 6` asks for 96 samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from matplotlib.figure import Figure

from attention_chains import models
from attention_chains.data.digit_scenes import COLOURS, DIGITS
from attention_chains.models.assets import local_folder
from attention_chains.report.figure import save

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Read the command line, sample, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=SAMPLERS, default="flux", help="which miniature")
    parser.add_argument("--source", default=None, help="a pipeline folder (the bundled one)")
    parser.add_argument("--output", type=Path, default=None, help="the picture (results/minis/NAME.png)")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument(
        "--guidance", type=float, default=5.0, help="guidance against the caption that names the colour alone"
    )
    parser.add_argument("--shift", type=float, default=8.0, help="of flux: above 1, more of the steps at high noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="of 16 captions; the first is drawn, all are counted")
    options = parser.parse_args()
    kind, sample = SAMPLERS[options.name]
    folder = local_folder(options.source or f"bundled:{options.name}")
    pipe = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    right = 0
    for seed in range(options.seed, options.seed + options.rounds):
        texts = captions(seed)
        images = sample(pipe, texts, options, seed)
        right += recognised(texts, images)
        if seed == options.seed:
            draw(texts, images, options.output or ROOT / "results" / "minis" / f"{options.name}.png")
    print(f"The bundled ViT recognises {right} of {16 * options.rounds}.")


def captions(seed: int) -> list[str]:
    """Sixteen one-object captions: every digit, then six more; colours drawn at random. Nothing is picked by eye."""
    rng = np.random.default_rng(seed)
    digits = [*DIGITS, *rng.choice(DIGITS, 6, replace=False)]
    return [f"a photo of a {rng.choice(list(COLOURS))} {digit}" for digit in digits]


def classless(text: str) -> str:
    """Name the colour alone: guidance against it strengthens the class."""
    return text.rsplit(" ", 1)[0] + " number"


def recognised(texts: list[str], images: np.ndarray) -> int:
    """How many of the images (B, 64, 64, 3) in [0, 1] the bundled ViT gives the digit that their caption asks for."""
    settings = {"revision": None, "device": torch.device("cpu"), "dtype": torch.float32, "image_size": 64}
    vit = models.load("vit", source="bundled:vit", classes="digits", **settings)
    with torch.inference_mode():
        found = vit.logits(vit.pixels(list((images * 255).round().astype(np.uint8)))).argmax(-1).tolist()
    return sum(DIGITS[number] == text.split()[-1] for number, text in zip(found, texts, strict=True))


def sample_flux(pipe: FluxPipeline, texts: list[str], options: argparse.Namespace, seed: int) -> np.ndarray:
    """One image a caption, (16, 64, 64, 3) in [0, 1]; noise seeded one by one."""
    plain = np.linspace(1, 1 / options.steps, options.steps)
    images = pipe(
        texts,
        sigmas=options.shift * plain / (1 + (options.shift - 1) * plain),
        negative_prompt=[classless(text) for text in texts],
        true_cfg_scale=options.guidance,
        num_inference_steps=options.steps,
        height=64,
        width=64,
        max_sequence_length=16,
        generator=generators(texts, seed),
        output_type="np",
    )
    return images.images


def sample_sd15(pipe: StableDiffusionPipeline, texts: list[str], options: argparse.Namespace, seed: int) -> np.ndarray:
    """One image a caption, (16, 64, 64, 3) in [0, 1]; noise seeded one by one."""
    images = pipe(
        texts,
        negative_prompt=[classless(text) for text in texts],
        guidance_scale=options.guidance,
        num_inference_steps=options.steps,
        height=64,
        width=64,
        generator=generators(texts, seed),
        output_type="np",
    )
    return images.images


def generators(texts: list[str], seed: int) -> list[torch.Generator]:
    """One for each image of a round."""
    return [torch.Generator().manual_seed(seed * 1000 + index) for index in range(len(texts))]


SAMPLERS = {"flux": (FluxPipeline, sample_flux), "sd15": (StableDiffusionPipeline, sample_sd15)}


def draw(texts: list[str], images: np.ndarray, path: Path) -> None:
    """Draw a 2 x 8 grid with the captions below."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axis, text, image in zip(figure.subplots(2, 8).flat, texts, images, strict=True):
        axis.imshow(image)
        axis.set_title(text.removeprefix("a photo of "), y=-0.2, fontsize=9)
        axis.axis("off")
    save(figure, path)
    print(f"Written: {path}")


if __name__ == "__main__":
    main()
