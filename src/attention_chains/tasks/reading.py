"""What each model family's attention is read as for segmentation: maps of a word, or segments without a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_chains import methods
from attention_chains.config import RunConfig
from attention_chains.data.sample import Sample
from attention_chains.metrics.segmentation import measure
from attention_chains.metrics.segments import measure_segments
from attention_chains.tasks.attention_tensor import TIMESTEP, read_tensor

if TYPE_CHECKING:
    from attention_chains.models.flux import Flux
    from attention_chains.models.sd15 import StableDiffusion

GROUPING = ("grid", "tau", "iterations", "precision", "refine")  # keys of the task that a "segments" method takes


class WordReading:
    """Scores of the image's tokens, from a word of the prompt (protocol 1.3).

    Parameters
    ----------
    config
        A resolved configuration.

    Raises
    ------
    MethodError
        For a method that gives no scores, or does not take a key.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._methods = methods.bind_all(config.methods, "scores")
        self._streams = sorted({spec.stream for spec in config.methods.values()})

    def settings(self) -> dict[str, Any]:
        """What the model is loaded with beside its own keys."""
        return {"layers": {stream: getattr(self.config.model, f"{stream}_layers") for stream in self._streams}}

    def check(self, model: Flux, sample: Sample) -> None:
        """Find the sample's word among the model's tokens; DataError if it is not there."""
        model.start([sample.prompt], [sample.word], self.config.task.word_index)

    def maps(
        self,
        model: Flux,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        words: Sequence[str],
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        """Maps (B, height, width) of every method, by label, from one capture."""
        task = self.config.task
        attention = model.attention(images, prompts, seeds, task.noise, task.pooled, self._streams)
        text = model.start(prompts, words, task.word_index)  # (B, text tokens)
        start = F.pad(text, (0, attention.grid[0] * attention.grid[1]))
        return {label: attention.image_map(scores(attention, start)) for label, scores in self._methods.items()}

    def measure(self, found: Tensor, mask: np.ndarray) -> dict[str, int | float]:
        """Statistics of one map (height, width)."""
        return measure(found, mask, self.config.task.threshold, self.config.data.eval_size)


class SegmentReading:
    """Segments from self-attention alone; which of them are the object is told by the mask (protocol 9, row 11).

    No word, no prompt and no noise is used. Images go through the model one by one, whatever the batch: merging decides
    by a threshold, which the last bits of another batch size could cross.

    Parameters
    ----------
    config
        A resolved configuration.

    Raises
    ------
    MethodError
        For a method that gives no segments, or does not take a key.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._methods = methods.bind_all(config.methods, "segments")
        chosen = {key: getattr(config.task, key) for key in GROUPING}
        self._grouping = {key: value for key, value in chosen.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """What the model is loaded with beside its own keys."""
        return {}

    def check(self, model: StableDiffusion, sample: Sample) -> None:
        """A sample that could be read can be segmented."""

    @torch.inference_mode()
    def maps(
        self,
        model: StableDiffusion,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        words: Sequence[str],
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        """Segments (B, H, W) int64 of every method, by label, at the size of the model's image."""
        size = (self.config.model.image_size,) * 2
        timestep = TIMESTEP if self.config.task.timestep is None else self.config.task.timestep
        found: dict[str, list[Tensor]] = {label: [] for label in self._methods}
        for image in images:
            tensor = read_tensor(model, [image], timestep)[0]
            for label, segments in self._methods.items():
                found[label].append(segments(tensor, size, **self._grouping))
        return {label: torch.stack(each) for label, each in found.items()}

    def measure(self, found: Tensor, mask: np.ndarray) -> dict[str, int | float]:
        """Statistics of one map of segments (H, W)."""
        return measure_segments(found, mask, self.config.data.eval_size)


READINGS = {"flux": WordReading, "sd15": SegmentReading}  # by family
