"""What one method measured: per-image statistics from the records of one or several runs, and a table's from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention_chains.metrics.segmentation import FIELDS, METRICS, summarise
from attention_chains.report.bootstrap import Interval, Statistic, interval, paired_interval

Records = Sequence[Mapping[str, Any]]
"""One run: records {"index": int, "id": str, "stats": {method: {field: number}}}, in any order."""

MEANINGS = {metric.name: metric.meaning for metric in METRICS}
"""What a column may be, and what it means."""


@dataclass(frozen=True)
class Measurement:
    """One method on a set of images, in one or several runs (seeds).

    Attributes
    ----------
    ids : tuple of str
        The images, sorted: the order of `per_image` does not depend on the order of the records.
    per_image : (n, runs, k) float64 array
        Sufficient statistics, in the order of `metrics.segmentation.FIELDS`.
    """

    ids: tuple[str, ...]
    per_image: np.ndarray

    @property
    def n(self) -> int:
        """Number of images."""
        return self.per_image.shape[0]

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.per_image.shape[1]

    def metric(self, name: str) -> Interval:
        """Metric `name` in percent, averaged over the runs, with its interval over images."""
        return interval(self.per_image, _mean_over_runs(name))

    def spread(self, name: str) -> float | None:
        """Sample standard deviation (runs - 1) of metric `name` over the runs, in points; None for a single run."""
        if self.runs == 1:
            return None
        per_run = summarise(self.per_image.sum(axis=0), self.n)[name]  # (runs,)
        return float(np.std(per_run, ddof=1))

    def minus(self, other: Measurement, name: str) -> Interval:
        """Difference of metric `name` to `other` in points, paired over the images.

        Raises
        ------
        ValueError
            When the two were measured on different images.
        """
        if self.ids != other.ids:
            raise ValueError(_differing_images("the two methods compared", self.ids, other.ids))
        return paired_interval(self.per_image, other.per_image, _mean_over_runs(name))


def collect(records_by_run: Mapping[str, Records], method: str) -> Measurement | None:
    """Gather what every run holds of one method; several runs that hold it are repeats of it.

    Parameters
    ----------
    records_by_run : mapping of run name to records
    method : str
        The label under which records keep the method's statistics.

    Returns
    -------
    Measurement or None
        None when no run holds the method.

    Raises
    ------
    ValueError
        When an image occurs twice in a run, lacks the method, or is not in all of the repeats.
    """
    held = {
        run: _statistics(records, method, run) for run, records in records_by_run.items() if _holds(records, method)
    }
    if not held:
        return None
    runs = list(held)
    ids = tuple(sorted(held[runs[0]]))
    for run in runs[1:]:
        if tuple(sorted(held[run])) != ids:
            raise ValueError(_differing_images(f"{method!r} of runs {runs[0]} and {run}", ids, tuple(held[run])))
    return Measurement(ids, np.array([[held[run][image] for run in runs] for image in ids], dtype=np.float64))


def _mean_over_runs(name: str) -> Statistic:
    return lambda sums, n: np.asarray(summarise(sums, n)[name]).mean(axis=-1)  # sums (..., runs, k)


def _holds(records: Records, method: str) -> bool:
    return any(method in record["stats"] for record in records)


def _statistics(records: Records, method: str, run: str) -> dict[str, list[float]]:
    statistics: dict[str, list[float]] = {}
    for record in records:
        image = record["id"]
        if image in statistics:
            raise ValueError(f"Run {run} holds image {image!r} twice; merge its shards with records.merge.")
        if method not in record["stats"]:
            raise ValueError(f"Run {run} lacks method {method!r} for image {image!r}; run it again with that method.")
        statistics[image] = [record["stats"][method][field] for field in FIELDS]
    return statistics


def _differing_images(what: str, first: Sequence[str], second: Sequence[str]) -> str:
    odd = sorted(set(first) ^ set(second))
    return f"Different images for {what}: {len(odd)} are in one only, e.g. {odd[0]!r}; finish both on the same data."
