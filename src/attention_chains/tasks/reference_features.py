"""Features of the images that generated ones are compared with, kept beside a run's records."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from attention_chains.data.errors import DataError
from attention_chains.tasks.probe import load_tensors, save_tensors

FILE = "reference.safetensors"
log = logging.getLogger(__name__)
AT_ONCE = 50  # images in a pass of the extractor, as torch-fidelity has it; changes no feature


def keep_reference(folder: Path, reference: Any, extractor: Any, extractor_digest: str, skip_bad: bool = False) -> None:
    """Compute the features of a reference set once and write them to `<folder>/reference.safetensors`.

    It holds "features" (m, d) and "logits" (m, classes), fp32, sorted by the images' ids. What another process or an
    earlier attempt left there is taken if it is of the same images and extractor.

    Parameters
    ----------
    folder
        Of the run.
    reference
        `data.reference.References`: `len`, `[i]`, `ids`, `fingerprint`.
    extractor
        Gives features and logits of uint8 images (B, 3, H, W).
    extractor_digest
        Hash of its weights.
    skip_bad
        Leave out images that cannot be used, and say how many.

    Raises
    ------
    DataError
        Images that cannot be used, all of them counted, unless `skip_bad`.
    RecordError
        The file cannot be written, or one that is there cannot be read.
    """
    if has_reference(folder, reference, extractor_digest):
        return
    _say_left_out(reference.skipped)
    bad: list[str] = []
    parts = [extractor.features(pixels) for pixels in _batches(reference, bad)]
    _judge(bad, len(reference), skip_bad)
    features, logits = (torch.cat([each.cpu() for each in side]) for side in zip(*parts, strict=True))
    known = {"identity": _identity(reference, extractor_digest)}
    save_tensors(folder / FILE, {"features": features, "logits": logits}, known)


def has_reference(folder: Path, reference: Any, extractor_digest: str) -> bool:
    """Whether a run has the features of these images by this extractor; arguments as of `keep_reference`."""
    path = folder / FILE
    return path.exists() and load_tensors(path, _identity(reference, extractor_digest)) is not None


def _identity(reference: Any, extractor_digest: str) -> str:
    return f"{reference.fingerprint} {extractor_digest}"


def _say_left_out(skipped: Mapping[str, int]) -> None:
    """Say how many images of the reference set were not taken, and why."""
    if any(skipped.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
        log.warning("Reference images that were not taken: %s.", reasons)


def _batches(reference: Any, bad: list[str]) -> Iterator[Tensor]:
    """The images in the order of their ids, uint8 (B, 3, H, W); what is wrong with others goes to `bad`."""
    order = sorted(range(len(reference)), key=reference.ids.__getitem__)
    for first in tqdm(range(0, len(order), AT_ONCE), desc="reference images", unit="batch", leave=False):
        images = []
        for index in order[first : first + AT_ONCE]:
            try:
                images.append(reference[index].image)
            except DataError as error:
                bad.append(str(error))
        if images:
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _judge(bad: list[str], count: int, skip_bad: bool) -> None:
    """Go on without bad images if that was asked for, or refuse all of them at once."""
    if not bad:
        return
    if skip_bad and len(bad) < count:
        log.warning("%d of %d reference images cannot be used and are left out.", len(bad), count)
        return
    shown = "\n".join(bad[:10])
    raise DataError(
        f"{len(bad)} of {count} reference images cannot be used; repair them, or leave them out with "
        f"data.skip_bad=true:\n{shown}"
    )
