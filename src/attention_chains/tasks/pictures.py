"""Generated images on disk: each whole or not there."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

import numpy as np
from PIL import Image

from attention_chains.records.errors import cannot_write
from attention_chains.records.files import append_durably, sync_folder


def picture_path(folder: Path, label: str, sample: str) -> Path:
    """Where a run in `folder` keeps the image of a sample by the method with this label."""
    return folder / "images" / label / f"{sample}.png"


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a PNG under another name, sync it, and only then give it its own.

    Parameters
    ----------
    path
        Replaced where it is there already: a killed run may have left it without a record.
    image
        (H, W, 3) uint8.

    Raises
    ------
    RecordError
        It cannot be written.
    """
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.FileIO(draft, "x") as file:
            append_durably(file, _png(image))
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)  # the GPU waits; a fifth larger than at 6
    return buffer.getvalue()
