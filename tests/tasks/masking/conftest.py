"""Two images for the small models of masked_models.py, which the tests of this folder import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", params=["timm", "registers", "open_clip"])
def vision(request: pytest.FixtureRequest) -> object:
    """Each kind of small model."""
    from masked_models import VISIONS

    return VISIONS[request.param]()


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Pixels of two images."""
    return torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What is masked, kept by layer as the passes go on: boolean (F, B, H, T)."""
    from attention_chains.tasks.masked_pass import Masker

    seen = {}
    original = Masker.hidden

    def watched(self: Masker, layer: str, *attention: object) -> torch.Tensor:
        seen[layer] = original(self, layer, *attention)
        return seen[layer]

    monkeypatch.setattr(Masker, "hidden", watched)
    return seen
