"""Composing the real configuration files, as run.py does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from attention_chains.config import ConfigError, RunConfig, explain, register, resolve

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="session")
def configured() -> Callable[..., RunConfig]:
    """Overrides in, resolved run out; what Hydra refuses is raised as the `ConfigError` that the user would read."""

    def composed(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            try:
                return resolve(compose("config", list(overrides)), overrides)
            except Exception as error:
                raise explain(error) or error from None

    register(CONFIGS)
    return composed


@pytest.fixture(scope="session")
def refused(configured: Callable[..., RunConfig]) -> Callable[..., str]:
    """The sentence with which overrides are refused."""

    def sentence(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            configured(*overrides)
        return str(caught.value)

    return sentence
