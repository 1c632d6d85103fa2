"""Segments of an image from self-attention alone, with anchors from a grid or from TokenRank (paper, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention_chains import methods
from attention_chains.config import RunConfig
from attention_chains.data.segmented import Segmented
from attention_chains.methods.grouping import Merging, label_map, merged, refined
from attention_chains.metrics.diffseg import measure, row, summarise
from attention_chains.tasks.attention_tensor import read_tensor
from attention_chains.tasks.model_task import ModelTask


class Diffseg(ModelTask):
    """Every choice of anchors of a run, measured on one pass of the model per image (protocol 3).

    Images go through the model one by one, whatever the batch: merging decides by a threshold, which the last bits of
    another batch size could cross, and at paper scale one image's attention fills the memory that there is.

    Raises
    ------
    MethodError, ConfigError
        For a method that gives no anchors, or a device that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._anchors = methods.bind_all(config.methods, "anchors")
        task = config.task
        self._merging = Merging(task.tau, task.iterations, task.precision)

    def check(self, sample: Segmented) -> None:
        """Load the model; a sample that could be read can be segmented."""
        _ = self._model

    def measure(self, samples: Sequence[Segmented], seed: int) -> Iterator[Mapping[str, Any]]:
        """Counts of every method: {"stats": {label: {tp, fp, fn, fp_zg, labelled}}}; nothing is drawn at random."""
        classes = len(self._dataset.classes)
        for sample in samples:
            found = self.segments(sample.image, sample.labels.shape)
            counts = {label: measure(each.cpu(), sample.labels, classes) for label, each in found.items()}
            yield {"stats": counts}

    @torch.inference_mode()
    def segments(self, image: np.ndarray, size: tuple[int, int]) -> dict[str, Tensor]:
        """Segments of one image by every method, by label.

        Parameters
        ----------
        image
            (H, W, 3) uint8.
        size
            (height, width) of the label maps, pixels.

        Returns
        -------
        dict
            (height, width) int64 from 0.
        """
        tensor = read_tensor(self._model, [image], self.config.task.timestep)[0]
        side, grid = isqrt(len(tensor)), self.config.task.grid
        chosen = {label: anchors(tensor, side, grid) for label, anchors in self._anchors.items()}
        return {label: label_map(self._proposals(tensor, each), (side, side), size) for label, each in chosen.items()}

    def running(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metrics so far of the run's last method."""
        label = list(self._anchors)[-1]
        rows = np.array([row(record["stats"][label]) for record in records])
        return {name: float(value) for name, value in summarise(rows.sum(0), len(rows)).items()}

    def _proposals(self, tensor: Tensor, anchors: Tensor) -> Tensor:
        proposals = merged(tensor, anchors, self._merging)
        return refined(tensor, proposals) if self.config.task.refine else proposals
