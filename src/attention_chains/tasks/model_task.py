"""What every task has: a model, a device, and samples."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from attention_chains import models
from attention_chains.config import ModelConfig, RunConfig
from attention_chains.tasks.datasets import missing_data, open_dataset
from attention_chains.tasks.device import choose_device


class ModelTask:
    """A task that runs one model over one data set; the loop of tasks/runner.py calls it.

    Nothing is read before it is needed, and only once: what is missing can be said before anything is loaded.

    Parameters
    ----------
    config
        A resolved configuration.

    Raises
    ------
    ConfigError
        For a device that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)

    def missing(self) -> list[str]:
        """What is not there to run this, a sentence each: a GPU, weights, licence, memory, disk, data."""
        found = [*models.missing(self._model_config, self.device), *missing_data(self.config.data)]
        return [*self._missing_gpu(), *found]

    def _missing_gpu(self) -> list[str]:
        """The paper's models run for weeks on a CPU: nobody should find that out from the progress bar."""
        if self.config.scale != "paper" or self.config.device != "auto" or self.device.type != "cpu":
            return []
        return ["No GPU is visible, and scale=paper would run on the CPU: set device=cpu if that is meant."]

    def dataset(self) -> Any:
        """The samples: `len`, `[i]`, `ids`, `fingerprint`."""
        return self._dataset

    def weights(self) -> str:
        """Hash of the model's weight files."""
        return self._weights

    def prepared(self, folder: Path) -> bool:
        """A run's numbers are made of its records alone, unless a task says otherwise."""
        return True

    def prepare(self, folder: Path) -> None:
        """All that can be wrong is a sample's own, unless a task says otherwise."""

    @property
    def _model_config(self) -> ModelConfig:
        """The model that is run."""
        return self.config.model

    def _model_settings(self) -> dict[str, Any]:
        """What the adapter is told beside the model's own keys."""
        return {}

    @cached_property
    def _weights(self) -> str:
        return models.weights_digest(self._model_config)  # gigabytes to read, at paper scale

    @cached_property
    def _dataset(self) -> Any:
        return open_dataset(self.config.data)

    @cached_property
    def _model(self) -> Any:
        return models.load_configured(self._model_config, self.device, **self._model_settings())
