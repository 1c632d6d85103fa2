"""Zero-shot segmentation of an object from its word's attention, or the image's alone (paper, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attention_chains.config import RunConfig
from attention_chains.data.sample import Sample
from attention_chains.metrics.segmentation import FIELDS, summarise
from attention_chains.tasks.model_task import ModelTask
from attention_chains.tasks.reading import READINGS
from attention_chains.tasks.seeds import noise_seed


class Segmentation(ModelTask):
    """Every method of a run, measured on one capture of the model's attention per image.

    Raises
    ------
    MethodError, ConfigError
        For a method that does not exist, or a device that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._reading = READINGS[config.model.family](config)

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

    def _model_settings(self) -> dict[str, Any]:
        return self._reading.settings()
