"""A tiny Stable Diffusion pipeline with random weights, as a folder, and generation runs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attention_chains import models, tasks
from attention_chains.config import RunConfig
from attention_chains.models.sd15 import StableDiffusion
from attention_chains.tasks import Outcome

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(scope="session")
def tiny_folder(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One level less than the original: latents of 16, attention at 16, 8 and in the mid block at 4; 2 heads."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from minis.tokenizers import clip_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel

    folder, tokenizer = tmp_path_factory.mktemp("models") / "tiny-sd", clip_tokenizer(16)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 16}
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = StableDiffusionPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8),
                layers_per_block=1,
                norm_num_groups=4,
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **narrow, **ends)),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=16,
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                block_out_channels=(8, 16, 16),
                layers_per_block=(2, 1, 1),
                cross_attention_dim=16,
                attention_head_dim=2,  # which is the number of heads
                norm_num_groups=4,
            ),
            scheduler=PNDMScheduler(skip_prk_steps=True, **SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    for name, weight in pipe.unet.named_parameters():
        if name.endswith(("attn1.to_q.weight", "attn1.to_k.weight")):
            weight.data *= 6  # as drawn, attention is uniform but for rounding, and so is every mask
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> StableDiffusion:
    """The folder, loaded."""
    return models.load(
        "sd15",
        source=str(tiny_folder),
        revision=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        image_size=32,
        steps=4,
    )


@pytest.fixture(scope="session")
def small(tiny_folder: Path) -> list[str]:
    """Overrides for five images of the tiny model and four reference scenes, no logger."""
    model = [f"model.source={tiny_folder}", "model.image_size=32", "model.steps=2"]
    data = ["data.n=5", "data.reference_n=4", "data.kid_subset=2"]
    return ["task=generation", *model, *data, "batch_size=2", "task.width=2", "logger=none", "device=cpu"]


@pytest.fixture
def generated(configured: Callable[..., RunConfig], small: list[str], tmp_path: Path) -> Callable[..., RunConfig]:
    """Configure the small run (sag_tokenrank, or several methods), changed by overrides; results go to `out`."""

    def config(*overrides: str, several: tuple[str, ...] = (), out: str = "results") -> RunConfig:
        each = {name: configured(*small, f"method={name}").methods[name] for name in several}
        changed = {"methods": each} if several else {}
        return dataclasses.replace(configured(*small, *overrides), out=str(tmp_path / out), **changed)

    return config


@pytest.fixture
def generate(generated: Callable[..., RunConfig]) -> Callable[..., Outcome]:
    """Run what `generated` configures."""

    def run(*overrides: str, **choices: object) -> Outcome:
        config = generated(*overrides, **choices)
        return tasks.run(tasks.build(config), config)[0]

    return run
