"""Zero-shot segmentation of an object from its word's attention, or the image's alone (paper, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from attention_chains import models
from attention_chains.config import RunConfig
from attention_chains.data.sample import Sample
from attention_chains.metrics.segmentation import FIELDS, summarise
from attention_chains.tasks.datasets import missing_data, open_dataset
from attention_chains.tasks.device import DTYPES, choose_device
from attention_chains.tasks.reading import READINGS
from attention_chains.tasks.seeds import noise_seed


class Segmentation:
    """Every method of a run, measured on one capture of the model's attention per image.

    Parameters
    ----------
    config
        A resolved configuration.

    Raises
    ------
    MethodError, ConfigError
        For a method that does not exist, or a device that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self._reading = READINGS[config.model.family](config)

    def missing(self) -> list[str]:
        """What is not there to run this: weights, licence, memory, disk, data."""
        return [*models.missing(self.config.model, self.device), *missing_data(self.config.data)]

    def dataset(self) -> Any:
        """The samples of `config.data`."""
        return self._dataset

    def weights(self) -> str:
        """Hash of the model's weight files."""
        return self._weights

    def maps(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], words: Sequence[str], seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """Maps (B, height, width) of every method, by label, from one pass: scores, or numbers of segments.

        Parameters
        ----------
        images
            B arrays (H, W, 3) uint8.
        prompts, words
            B texts, and the word of each that a chain starts from.
        seeds
            B seeds of the noise.
        """
        return self._reading.maps(self._model, images, prompts, words, seeds)

    def prepare(self, folder: Path) -> None:
        """All that can be wrong is a sample's own."""

    def check(self, sample: Sample) -> None:
        """Hold the sample against the model.

        Raises
        ------
        DataError
            Its word is needed, and not among the model's tokens.
        """
        self._reading.check(self._model, sample)

    def measure(self, samples: Sequence[Sample], seed: int) -> list[Mapping[str, Any]]:
        """Per-image statistics of every method: {"stats": {label: {tn, fp, fn, tp, ap, fg_ap}}}."""
        seeds = [noise_seed(seed, sample.id) for sample in samples]
        maps = self.maps(
            [sample.image for sample in samples],
            [sample.prompt for sample in samples],
            [sample.word for sample in samples],
            seeds,
        )
        return [
            {"stats": {label: self._reading.measure(batch[i], sample.mask) for label, batch in maps.items()}}
            for i, sample in enumerate(samples)
        ]

    def running(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metrics so far of the run's last method."""
        label = list(self.config.methods)[-1]
        rows = np.array([[record["stats"][label][field] for field in FIELDS] for record in records])
        return {name: float(value) for name, value in summarise(rows.sum(0), len(rows)).items()}

    @cached_property
    def _weights(self) -> str:
        return models.weights_digest(self.config.model)  # gigabytes to read, at paper scale

    @cached_property
    def _dataset(self) -> Any:
        return open_dataset(self.config.data)

    @cached_property
    def _model(self) -> Any:
        model = self.config.model
        return models.load(
            model.family,
            source=model.source,
            revision=model.revision,
            device=self.device,
            dtype=DTYPES[model.dtype],
            image_size=model.image_size,
            steps=model.steps,
            **self._reading.settings(),
        )
