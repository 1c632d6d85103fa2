"""Zero-shot segmentation of an object from its word's attention (paper, section 5.1; protocol 1.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention_chains import methods, models
from attention_chains.config import RunConfig
from attention_chains.data.sample import Sample
from attention_chains.metrics.segmentation import FIELDS, measure, summarise
from attention_chains.tasks.datasets import missing_data, open_dataset
from attention_chains.tasks.device import DTYPES, choose_device
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
        settings = {label: {**vars(spec)} for label, spec in config.methods.items()}
        self._methods = {label: methods.bind(keys.pop("name"), keys) for label, keys in settings.items()}
        self._streams = sorted({spec.stream for spec in config.methods.values()})

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
        """Maps (B, height, width) of every method, by label, from one capture.

        Parameters
        ----------
        images
            B arrays (H, W, 3) uint8.
        prompts, words
            B texts, and the word of each that the chain starts from.
        seeds
            B seeds of the noise.
        """
        task = self.config.task
        attention = self._model.attention(images, prompts, seeds, task.noise, task.pooled, self._streams)
        text = self._model.start(prompts, words, task.word_index)  # (B, text tokens)
        start = torch.nn.functional.pad(text, (0, attention.grid[0] * attention.grid[1]))
        return {label: attention.image_map(scores(attention, start)) for label, scores in self._methods.items()}

    def prepare(self) -> None:
        """All that can be wrong is a sample's own."""

    def check(self, sample: Sample) -> None:
        """Find the sample's word among the model's tokens.

        Raises
        ------
        DataError
            It is not there.
        """
        self._model.start([sample.prompt], [sample.word], self.config.task.word_index)

    def measure(self, samples: Sequence[Sample], seed: int) -> list[Mapping[str, Any]]:
        """Per-image statistics of every method: {"stats": {label: {tn, fp, fn, tp, ap, fg_ap}}}."""
        seeds = [noise_seed(seed, sample.id) for sample in samples]
        maps = self.maps(
            [sample.image for sample in samples],
            [sample.prompt for sample in samples],
            [sample.word for sample in samples],
            seeds,
        )
        threshold, size = self.config.task.threshold, self.config.data.eval_size
        return [
            {"stats": {label: measure(batch[i], sample.mask, threshold, size) for label, batch in maps.items()}}
            for i, sample in enumerate(samples)
        ]

    def running(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metrics so far of the run's last method."""
        label = list(self._methods)[-1]
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
        layers = {stream: getattr(model, f"{stream}_layers") for stream in self._streams}
        return models.load(
            model.family,
            source=model.source,
            revision=model.revision,
            device=self.device,
            dtype=DTYPES[model.dtype],
            image_size=model.image_size,
            text_length=model.text_length,
            steps=model.steps,
            layers=layers,
            guidance=model.guidance,
        )
