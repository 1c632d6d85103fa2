"""What a capture keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attention_chains.capture.errors import CaptureError
from attention_chains.capture.layers import nearest


class Tape:
    """Recorded attention by layer, in the order in which the layers first ran.

    A record is a `Call`, or what the capture's `reduce` made of it. A tape outlives its capture.
    """

    def __init__(self) -> None:
        self._records: dict[str, list[Any]] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the recorded layers: also the way to learn a model's layer names."""
        return tuple(self._records)

    def calls(self, layer: str) -> list[Any]:
        """All records of a layer, one for each of its calls; empty where `reduce` kept nothing.

        Raises
        ------
        CaptureError
            The layer was not recorded.
        """
        if layer not in self._records:
            raise CaptureError(self._unknown(layer))
        return list(self._records[layer])

    def __getitem__(self, layer: str) -> Any:
        """Give the last record of a layer.

        Raises
        ------
        CaptureError
            The layer was not recorded, or `reduce` kept nothing of it.
        """
        records = self.calls(layer)
        if not records:
            raise CaptureError(
                f"Nothing was kept of layer '{layer}': `reduce` returned None; return what the tape is to keep."
            )
        return records[-1]

    def __contains__(self, layer: object) -> bool:
        """Whether the layer was recorded."""
        return layer in self._records

    def __iter__(self) -> Iterator[str]:
        """Go through the layer paths."""
        return iter(self._records)

    def __len__(self) -> int:
        """Count the recorded layers."""
        return len(self._records)

    def keep(self, layer: str, record: Any | None) -> None:
        """Add a record of `layer`; None notes that the layer ran and keeps nothing."""
        records = self._records.setdefault(layer, [])
        if record is not None:
            records.append(record)

    def _unknown(self, layer: str) -> str:
        if not self._records:
            return f"No record of layer '{layer}': the tape is empty; run the model inside the capture first."
        return f"No record of layer '{layer}'; the nearest on the tape are {nearest(layer, self.layers)}."
