"""The FLUX adapter on a tiny model with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attention_chains import models
from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.data.sample import Sample
from attention_chains.models.flux import Flux

SETTINGS = {
    "revision": None,
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "image_size": 32,
    "text_length": 16,
    "steps": 4,
    "layers": {"dual": [0, 1], "single": [0, 1]},
}


@pytest.fixture(scope="session")
def load_flux(tiny_flux: Path) -> Callable[..., Flux]:
    """Load the tiny model, or another `source`, with other settings: 64 image tokens, 16 text tokens."""

    def load(**changes: object) -> Flux:
        return models.load("flux", **{"source": str(tiny_flux), **SETTINGS, **changes})

    return load


@pytest.fixture(scope="session")
def flux(load_flux: Callable[..., Flux]) -> Flux:
    return load_flux()


@pytest.fixture(scope="session")
def scenes() -> list[Sample]:
    return list(DigitScenes(n=3))


@pytest.fixture(scope="session")
def t5(scripts: Path):
    from minis.tokenizers import t5_tokenizer

    return t5_tokenizer(512)


@pytest.fixture(scope="session")
def clip(scripts: Path):
    from minis.tokenizers import clip_tokenizer

    return clip_tokenizer(77)
