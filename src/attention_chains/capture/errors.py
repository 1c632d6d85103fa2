"""The error of this room."""

from __future__ import annotations


class CaptureError(RuntimeError):
    """Attention could not be captured or edited: what was wrong, in which layer, and what to do."""
