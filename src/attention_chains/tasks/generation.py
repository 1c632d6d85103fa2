"""Images generated with and without self-attention guidance, and the features that IS, FID and KID compare.

Paper, section 5.3 and appendix A.2; protocol 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_chains import methods
from attention_chains.config import ConfigError, RunConfig
from attention_chains.data.prompts import Prompt
from attention_chains.models.errors import AssetError
from attention_chains.models.extractors import extractor_digest, load_extractor, missing_extractor
from attention_chains.records.vectors import pack
from attention_chains.tasks.model_task import ModelTask
from attention_chains.tasks.pictures import picture_path, write_picture
from attention_chains.tasks.reference_features import has_reference, keep_reference
from attention_chains.tasks.sampling import Guidance, NotFiniteError, sample
from attention_chains.tasks.seeds import noise_seed


class Generation(ModelTask):
    """Every method of a run, from the same latents of each sample.

    The model runs on batches of `task.width` samples, filled up where there are fewer, so that a sample is computed by
    kernels of the same shape whatever `batch_size` is, and wherever in the run, in whichever shard and after whatever
    interruption it comes: its bits depend on the device alone. Another width changes them as rounding does.

    Raises
    ------
    MethodError, ConfigError
        For a method that gives no saliency or does not take a key, or a device that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._saliencies = methods.bind_all(config.methods, "saliency")
        self._folder: Path | None = None

    def missing(self) -> list[str]:
        """What is not there to run this: weights, memory, disk, extractor, prompts, reference images."""
        return [*super().missing(), *missing_extractor(self.config.data.extractor)]

    def prepared(self, folder: Path) -> bool:
        """Whether the features of the reference images are there."""
        return has_reference(folder, self._dataset.reference, extractor_digest(self.config.data.extractor))

    def prepare(self, folder: Path) -> None:
        """Try the layer's name, and keep the features of the reference images in the run's folder.

        Raises
        ------
        AssetError
            The model has no such layer, or something cannot be loaded.
        DataError
            A reference image cannot be used.
        RecordError
            The features cannot be kept.
        """
        self._folder = folder
        self._check_subsets()
        self._model.layer(self.config.task.layer)
        data = self.config.data
        digest = extractor_digest(data.extractor)
        keep_reference(folder, self._dataset.reference, self._extractor, digest, data.skip_bad)

    def check(self, sample: Prompt) -> None:
        """Any text can be encoded."""

    def measure(self, samples: Sequence[Prompt], seed: int) -> Iterator[Mapping[str, Any]]:
        """Keep each sample's images, then give its features: {"stats": {label: {features, logits, masked}}}.

        The vectors are packed as `records.vectors` does; "masked" is the mean share of tokens blurred.

        Raises
        ------
        AssetError
            The model gives NaN or infinite latents.
        RecordError
            An image cannot be written, or a feature is not finite.
        """
        generated = {label: self._described(label, samples, seed) for label in self._saliencies}
        for row, each in enumerate(samples):
            for label, (images, _) in generated.items():
                write_picture(picture_path(self._folder, label, each.id), images[row])
            yield {"stats": {label: statistics[row] for label, (_, statistics) in generated.items()}}

    def running(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean share of blurred tokens so far, of the run's last method; the metrics need the whole set."""
        label = list(self._saliencies)[-1]
        return {"masked": float(np.mean([record["stats"][label]["masked"] for record in records]))}

    def images(self, label: str, samples: Sequence[Prompt], seed: int) -> tuple[np.ndarray, list[float]]:
        """Generate by one method.

        Parameters
        ----------
        label
            The method's.
        samples
            B prompts.
        seed
            Seed of the run.

        Returns
        -------
        images : np.ndarray
            (B, H, W, 3) uint8.
        masked : list of float
            Share of the tokens that was blurred, of each.

        Raises
        ------
        AssetError
            The latents are NaN or infinite, or the layer does not exist.
        """
        width = self.config.task.width
        parts = [self._filled(label, samples[first : first + width], seed) for first in range(0, len(samples), width)]
        return np.concatenate([images for images, _ in parts]), [share for _, shares in parts for share in shares]

    def _filled(self, label: str, samples: Sequence[Prompt], seed: int) -> tuple[np.ndarray, list[float]]:
        """Generate at most `task.width` images, in a batch that is filled up to it."""
        filled = [*samples, *[samples[-1]] * (self.config.task.width - len(samples))]
        latents = self._model.noise([noise_seed(seed, each.id) for each in filled])
        try:
            done = sample(
                self._model, latents, [each.prompt for each in filled], self._guidance, self._saliencies[label]
            )
        except NotFiniteError as error:
            raise self._not_finite(label, samples, error) from error
        return self._model.decode(done.latents[: len(samples)]), done.masked[: len(samples)].tolist()

    def _check_subsets(self) -> None:
        """KID takes subsets of both sets of images: hold their sizes against it while nothing is generated yet."""
        subset = self.config.data.kid_subset
        for what, images in (("data.n", self._dataset), ("data.reference_n", self._dataset.reference)):
            if len(images) < subset:
                raise ConfigError(
                    f"{what} gives {len(images)} images, fewer than the {subset} of a KID subset: raise it, or lower "
                    "data.kid_subset."
                )

    def _described(self, label: str, samples: Sequence[Prompt], seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        images, masked = self.images(label, samples, seed)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        features, logits = (each.cpu() for each in self._extractor.features(pixels))
        return images, [
            {"features": pack(features[row]), "logits": pack(logits[row]), "masked": share}
            for row, share in enumerate(masked)
        ]

    def _not_finite(self, label: str, samples: Sequence[Prompt], error: NotFiniteError) -> AssetError:
        ids = dict.fromkeys(samples[min(row, len(samples) - 1)].id for row in error.rows)
        model = self.config.model
        return AssetError(
            f"{model.name} gives NaN or infinite latents for sample {', '.join(ids)} with {label} after {error.step} "
            f"steps in {model.dtype}: repair its weights, or set model.dtype=float32 or a smaller task.sag_scale; "
            "finished samples are kept."
        )

    @cached_property
    def _guidance(self) -> Guidance:
        task = self.config.task
        return Guidance(task.layer, task.sag_scale, task.cfg, task.mask_threshold, task.mask_cap)

    @cached_property
    def _weights(self) -> str:
        parts = [super()._weights, extractor_digest(self.config.data.extractor)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def _extractor(self) -> Any:
        return load_extractor(self.config.data.extractor, self.device)
