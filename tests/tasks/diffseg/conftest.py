"""Attention tensors with something to group in them, and runs of the tiny Stable Diffusion."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def tensor() -> Callable[..., torch.Tensor]:
    """Make attention (n, n) float64 between tokens of soft regions; `sharpness` says how far regions are apart."""

    def make(side: int, seed: int = 0, sharpness: float = 1.8) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        features = F.interpolate(torch.randn(1, 5, 3, 3, generator=draw).double(), size=(side, side), mode="bicubic")
        features = F.normalize(features.flatten(2)[0].T, dim=-1)  # (n, 5)
        noise = 0.1 * torch.randn(side**2, side**2, generator=draw).double()
        return (sharpness**2 * features @ features.T + noise).softmax(-1)

    return make


@pytest.fixture
def tiny(tiny_sd: Path) -> list[str]:
    """Overrides for a run of the tiny model on three scenes: latents of 16 x 16, attention at 16, 8, 4 and 2."""
    return [f"model.source={tiny_sd}", "model=sd15", "model.image_size=32", "data.n=3", "logger=none", "device=cpu"]


@pytest.fixture
def loaded(sd: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model is loaded once for all runs."""
    monkeypatch.setattr("attention_chains.models.load", lambda family, **settings: sd)
