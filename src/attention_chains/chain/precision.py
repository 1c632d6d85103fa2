"""Products in the full precision of their type: certified errors hold for nothing less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_reduced(device: torch.device) -> bool:
    """Whether torch is set to multiply float32 more coarsely than float32: by autocast, or by TF32 on CUDA."""
    return torch.is_autocast_enabled(device.type) or _is_tf32(device)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn autocast and, on CUDA, TF32 off, and back to what they were.

    TF32 keeps 10 bits of a product's factors: a residual measured with it says nothing about float32.
    """
    if not is_reduced(device):
        yield
        return
    tf32 = _is_tf32(device)
    with torch.autocast(device.type, enabled=False):
        if not tf32:
            yield
            return
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.fp32_precision = "tf32"


def _is_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
