"""The picture beside a table: what each method makes of a few images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attention_chains.data.errors import DataError
from attention_chains.data.photographs import read_photograph
from attention_chains.report.definition import Panels, Photograph
from attention_chains.report.figure import IMAGE, MASK, PanelRow, draw_panels
from attention_chains.tasks.seeds import noise_seed

if TYPE_CHECKING:
    from attention_chains.data.sample import Sample
    from attention_chains.tasks.segmentation import Segmentation


def draw_examples(task: Segmentation, panels: Panels, scale: str, seed: int, path: Path) -> Path:
    """Draw the first samples of the data, then photographs from outside of it.

    Parameters
    ----------
    task
        The task whose methods make the maps.
    panels
        How many samples, which methods, which photographs.
    scale
        Decides the words asked of the photographs.
    seed
        The run's seed: the maps of the samples are those that were measured.
    path
        PNG to write.
    """
    photographs = [photograph for photograph in panels.photographs if photograph.scale == scale]
    rows = _sample_rows(task, panels, seed) + _photograph_rows(task, panels, photographs, seed)
    return draw_panels(rows, [IMAGE, *panels.methods, MASK], path, blocks=2)


def _sample_rows(task: Segmentation, panels: Panels, seed: int) -> list[PanelRow]:
    samples = list(islice(_readable(task), panels.samples))
    seeds = [noise_seed(seed, sample.id) for sample in samples]
    images, prompts, words = ([getattr(sample, name) for sample in samples] for name in ("image", "prompt", "word"))
    maps = _maps(task, panels, images, prompts, words, seeds)
    return [
        PanelRow(sample.image, found, sample.mask, sample.word) for sample, found in zip(samples, maps, strict=True)
    ]


def _readable(task: Segmentation) -> Iterator[Sample]:
    """The samples in order; bad ones are left out, as the run left them out or would have ended."""
    dataset = task.dataset()
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
            task.check(sample)
        except DataError:
            continue
        yield sample


def _photograph_rows(
    task: Segmentation, panels: Panels, photographs: Sequence[Photograph], seed: int
) -> list[PanelRow]:
    images = [read_photograph(photograph.name) for photograph in photographs]
    prompts, words = ([getattr(photograph, name) for photograph in photographs] for name in ("prompt", "word"))
    seeds = [noise_seed(seed, photograph.name) for photograph in photographs]
    maps = _maps(task, panels, images, prompts, words, seeds)
    return [PanelRow(image, found, None, word) for image, found, word in zip(images, maps, words, strict=True)]


def _maps(
    task: Segmentation,
    panels: Panels,
    images: Sequence[np.ndarray],
    prompts: Sequence[str],
    words: Sequence[str],
    seeds: Sequence[int],
) -> list[dict[str, np.ndarray]]:
    """Maps by method label, image by image: one image is in memory at a time, as at paper scale it must."""
    found = []
    for one in zip(images, prompts, words, seeds, strict=True):
        maps = task.maps(*([value] for value in one))
        found.append({label: maps[label][0].float().cpu().numpy() for label in panels.methods})
    return found
