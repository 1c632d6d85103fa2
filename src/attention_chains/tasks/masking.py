"""Token masking: how fast accuracy falls while the patches ranked first are masked (paper, section 5.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention_chains import methods
from attention_chains.config import ConfigError, MethodConfig, RunConfig
from attention_chains.data.errors import DataError
from attention_chains.data.labelled import Labelled
from attention_chains.metrics.masking import row, summarise
from attention_chains.models.errors import AssetError
from attention_chains.models.vision import Vision
from attention_chains.tasks.head_budget import BUDGETS
from attention_chains.tasks.masked_pass import Batch, Strategy, masked_logits
from attention_chains.tasks.model_task import ModelTask

OWN_KEYS = ("name", "blocks", "budget")  # of a method's configuration: what the task and not the ranking takes


class Masking(ModelTask):
    """Every ranking of a run, measured on the same images at the same fractions (protocol 4.2).

    The images are preprocessed once, and fraction 0 is one plain pass for all methods. Which images were taken is read
    off the records, each of which has its image's id.

    Raises
    ------
    MethodError, ConfigError
        For a method that gives no ranking or does not take a key, a number of fractions or a budget that cannot be, or
        a device that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.fractions = _fractions(config.task.fractions)
        self._rankings = {label: _ranking(label, spec) for label, spec in config.methods.items()}

    def check(self, sample: Labelled) -> None:
        """Hold the sample against the model.

        Raises
        ------
        DataError
            Its class is none of the classifier's, or its image cannot be preprocessed.
        """
        classes = len(self._dataset.classes)
        if classes != self._model.classes:
            raise ConfigError(
                f"data={self.config.data.name} has {classes} classes, but the classifier of {self.config.model.name} "
                f"has {self._model.classes}: choose data of its classes."
            )
        try:
            self._model.pixels([sample.image])
        except DataError as error:
            raise DataError(f"Sample '{sample.id}': {error}") from error

    def measure(self, samples: Sequence[Labelled], seed: int) -> list[Mapping[str, Any]]:
        """Right answers to every image at every fraction: {"stats": {label: {"correct": [0 or 1, ...]}}}."""
        labels = torch.tensor([sample.label for sample in samples], device=self.device)
        batch = Batch(self._model.pixels([sample.image for sample in samples]), [sample.id for sample in samples], seed)
        found = self._logits(batch)
        if not torch.stack([logits.isfinite().all() for logits in found.values()]).all():
            raise AssetError(
                f"{self.config.model.name} gives NaN or infinite class scores in {self.config.model.dtype}: repair its "
                "weights, or set model.dtype=float32."
            )
        right = {label: (logits.argmax(-1) == labels).int() for label, logits in found.items()}
        correct = {label: each.T.tolist() for label, each in right.items()}  # (B, F)
        return [
            {"stats": {label: {"correct": each[i]} for label, each in correct.items()}} for i in range(len(samples))
        ]

    def running(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metrics so far of the run's last method."""
        label = list(self._rankings)[-1]
        rows = np.array([row(record["stats"][label]) for record in records])
        return {name: float(value) for name, value in summarise(rows.sum(0), len(rows)).items()}

    @torch.inference_mode()
    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        """Class logits (F, B, classes) of every method, by label."""
        clean = self._model.logits(batch.pixels)[None]
        masked = self.fractions[1:]
        return {
            label: torch.cat([clean, masked_logits(self._model, batch, strategy, masked)])
            for label, strategy in self._strategies.items()
        }

    @cached_property
    def _strategies(self) -> dict[str, Strategy]:
        """How each method masks, by label."""
        return {
            label: Strategy(self._rankings[label], self._masked_layers(label, spec.blocks), spec.budget)
            for label, spec in self.config.methods.items()
        }

    def _masked_layers(self, label: str, blocks: int | None) -> list[str]:
        present = self._model.blocks
        if blocks is not None and not 0 <= blocks <= len(present):
            raise ConfigError(
                f"blocks of method '{label}' is {blocks}, but {self.config.model.name} has {len(present)} blocks: "
                f"choose from 0 to {len(present)}, or null for the first half."
            )
        return present[: len(present) // 2 if blocks is None else blocks]

    @cached_property
    def _model(self) -> Vision:
        loaded = super()._model
        if loaded.classify is None:
            raise ConfigError(
                f"{self.config.model.name} was loaded without a classifier, which masking needs: set model.head."
            )
        return loaded


def _fractions(count: int | None) -> list[float]:
    """Shares of the patches, evenly spaced from 0 to 1."""
    if count is None or count < 2:
        raise ConfigError(f"task.fractions is {count}: masking needs two or more, from nothing masked to all.")
    return [index / (count - 1) for index in range(count)]


def _ranking(label: str, spec: MethodConfig) -> methods.Ranking:
    if spec.budget not in (None, *BUDGETS):
        raise ConfigError(f"budget of method '{label}' is '{spec.budget}': choose {', '.join(BUDGETS)} or null.")
    keys = {name: value for name, value in vars(spec).items() if name not in OWN_KEYS}
    return methods.bind(spec.name, keys, kind="ranking")
