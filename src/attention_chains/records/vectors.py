"""Vectors in a record: as text that reads back bit for bit, at four thirds of their size."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import numpy as np

from attention_chains.records.errors import RecordError

if TYPE_CHECKING:
    from torch import Tensor

LITTLE_ENDIAN = np.dtype("<f4")


def pack(vector: Tensor) -> str:
    """Text of a vector: base64 of its little-endian fp32 values.

    Parameters
    ----------
    vector
        (d,) of any float type and on any device; rounded to fp32.

    Raises
    ------
    RecordError
        A value is NaN or infinite, also after rounding.
    """
    values = vector.detach().cpu().float().numpy()
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RecordError(
            f"Entry {position} of a vector is {values[position]}: records hold finite numbers only, so mend what "
            "computed it."
        )
    return base64.b64encode(values.astype(LITTLE_ENDIAN).tobytes()).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """Vector (d,) fp32 of a text that `pack` made.

    Raises
    ------
    RecordError
        It is no such text.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), LITTLE_ENDIAN)
    except (binascii.Error, ValueError) as error:
        raise RecordError(
            f"A record's vector cannot be read ({error}): delete its line and run the same command again."
        ) from error
    return values.astype(np.float32)  # of this machine's byte order, and writable
