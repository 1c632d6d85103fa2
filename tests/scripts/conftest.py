"""A recipe that takes no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _importable(scripts: Path) -> None:
    """`import minis...` works in every test of this folder."""


@pytest.fixture
def regression() -> Callable[[], tuple[torch.nn.Module, Callable]]:
    """Make a linear model and its loss of step i, whose data come from i alone."""
    from minis.loop import step_generator

    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        truth = torch.randn(3, 4)

        def loss_at(step):
            data = torch.randn(8, 4, generator=step_generator(7, step))
            return (model(data) - data @ truth.T).square().mean()

        return model, loss_at

    return make
