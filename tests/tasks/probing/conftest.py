"""Probing runs on a tiny vision transformer with random weights and a few digit scenes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from attention_chains import models, tasks
from attention_chains.config import MethodConfig, RunConfig
from attention_chains.data.digit_classes import DigitClasses
from attention_chains.models.vision import Vision
from attention_chains.tasks import Outcome

NETWORK = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 10}


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ViT with random weights, wide enough apart that its attention has structure."""
    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", **NETWORK)
        for block in network.blocks:
            torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)
    save_file(network.state_dict(), folder / "model.safetensors")
    statistics = {"input_size": [3, 32, 32], "num_classes": 10, "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 10, "model_args": NETWORK}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": statistics}))
    return folder


@pytest.fixture(scope="session")
def vision(tiny_vit: Path) -> Vision:
    """The tiny ViT, loaded: 3 layers, 2 heads, 4 x 4 patches."""
    cpu = torch.device("cpu")
    return models.load("vit", source=str(tiny_vit), revision=None, device=cpu, dtype=torch.float32, image_size=32)


@pytest.fixture
def scenes() -> DigitClasses:
    """Eleven scenes."""
    return DigitClasses("train", 11, 0)


@pytest.fixture(scope="session")
def settings(tiny_vit: Path) -> list[str]:
    """Overrides for 30 training and 7 evaluation scenes, two epochs of steps of 8, three rates."""
    model = ["model=vit", f"model.source={tiny_vit}", "model.image_size=32"]
    data = ["data.n=7", "data.train=30"]
    task = ["task.epochs=2", "task.train_batch=8", "task.learning_rates=[0.01,0.1,1.0]"]
    return ["task=probing", *model, *data, *task, "batch_size=4", "logger=none", "device=cpu"]


@pytest.fixture
def probing(configured: Callable[..., RunConfig], settings: list[str], tmp_path: Path) -> Callable[..., RunConfig]:
    """The configuration of a small run, changed by overrides; results go to `out` in the folder of the test.

    Keywords are its methods, by label; without any it is TokenRank after 20 bounces.
    """

    def build(*overrides: str, out: str = "results", **methods: MethodConfig) -> RunConfig:
        config = configured(*settings, *overrides)
        return dataclasses.replace(config, out=str(tmp_path / out), methods=methods or config.methods)

    return build


@pytest.fixture
def probe(probing: Callable[..., RunConfig]) -> Callable[..., list[Outcome]]:
    """Run it: an outcome of each seed."""

    def run(*overrides: str, out: str = "results", **methods: MethodConfig) -> list[Outcome]:
        config = probing(*overrides, out=out, **methods)
        return tasks.run(tasks.build(config), config)

    return run
