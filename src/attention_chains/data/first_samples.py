"""The beginning of a data set."""

from __future__ import annotations

from typing import Any

from attention_chains.data.sample import Sample


class FirstSamples:
    """The first `n` samples of a data set; all of them where `n` is None or beyond its end.

    The fingerprint is the whole data set's, so that a longer run goes on from the records of a shorter one only where
    `n` is left out of the run's identity; the configuration keeps it in.
    """

    def __init__(self, dataset: Any, n: int | None) -> None:
        self.dataset = dataset
        self.ids: list[str] = list(dataset.ids[:n])

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        return self.dataset[range(len(self))[index]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the whole data set."""
        return self.dataset.fingerprint
