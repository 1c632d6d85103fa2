"""What one method measured: per-image statistics from the records of one or several runs, and a table's from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from attention_chains import metrics
from attention_chains.metrics.metric import Metric
from attention_chains.records import RecordError, read_identity
from attention_chains.report.bootstrap import RESAMPLES, Interval, Statistic, interval, paired_interval
from attention_chains.report.errors import ReportError
from attention_chains.report.jackknife import GROUPS, groups_of, jackknife_interval
from attention_chains.tasks.reference_features import FILE

Records = Sequence[Mapping[str, Any]]
"""One run: records {"index": int, "id": str, "stats": {method: statistics}}, in any order."""


@dataclass(frozen=True)
class Run:
    """The records of one run, and what was run.

    Attributes
    ----------
    name : str
        Its folder under results/runs/.
    task, model : str
        Names of the task and of the model's file in configs/model/.
    seed : int
        Seed of the random choices.
    records : Records
    folder : Path, optional
        Where the run is kept: what its records are compared with, and pictures, are there.
    """

    name: str
    task: str
    model: str
    seed: int
    records: Records
    folder: Path | None = None


@dataclass(frozen=True)
class Intervals:
    """How the intervals of a measurement come about, in words.

    Attributes
    ----------
    single, paired : str
        Of a metric, and of the difference of two methods.
    confidence : str
        What the confidence in the sign of a difference is.
    """

    single: str
    paired: str
    confidence: str


BOOTSTRAP = Intervals(
    f"95 % percentile bootstrap over images, {RESAMPLES} resamples.",
    "paired bootstrap",
    "the share of resamples in which",
)
JACKKNIFE = Intervals(
    f"95 % by Student's t, with the standard error of a jackknife that leaves out one of {GROUPS} groups of images at "
    "a time (by sorted id), and the noise of KID's random subsets. No bootstrap: the same image twice is what FID and "
    "KID measure as a lack of variety. The reference images are taken as they are, the same for all rows.",
    "jackknife of the difference, leaving out the same groups of both",
    "the probability, by Student's t, that",
)


@dataclass(frozen=True)
class Measurement:
    """One method on a set of images, in one or several runs: models, and seeds of each.

    Attributes
    ----------
    task : str
        Whose metrics the statistics are for.
    ids : tuple of str
        The images, sorted: the order of `per_image` does not depend on the order of the records.
    seeds, models : tuples
        Seed and model of each run.
    per_image : (n, runs, k) float64 array
        Sufficient statistics: `row` of the task's metrics.
    """

    intervals: ClassVar[Intervals] = BOOTSTRAP

    task: str
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    models: tuple[str, ...]
    per_image: np.ndarray

    @property
    def n(self) -> int:
        """Number of images."""
        return self.per_image.shape[0]

    @property
    def repeats(self) -> int:
        """Number of seeds that were run."""
        return len(set(self.seeds))

    def metric(self, name: str) -> Interval:
        """Metric `name` in its unit, averaged over the runs, with its interval over images."""
        return interval(self.per_image, self._mean_over_runs(name))

    def spread(self, name: str) -> float | None:
        """Sample standard deviation (seeds - 1) of metric `name` over the seeds, in its unit; None for a single seed.

        Of several models, it is that of their mean.
        """
        if self.repeats == 1:
            return None
        return float(np.std(list(self.by_seed(name).values()), ddof=1))

    def by_seed(self, name: str) -> dict[int, float]:
        """Metric `name` of each seed, a mean over the models."""
        of_run = np.asarray(self._summarise(self.per_image.sum(axis=0), self.n)[name])  # (runs,)
        seeds = np.asarray(self.seeds)
        return {int(seed): float(of_run[seeds == seed].mean()) for seed in sorted(set(self.seeds))}

    def minus(self, other: Measurement, name: str) -> Interval:
        """Difference of metric `name` to `other` in its unit, paired over the images.

        Raises
        ------
        ReportError
            When the two were measured on different images.
        """
        self._refuse_other_images(other)
        return paired_interval(self.per_image, other.per_image, self._mean_over_runs(name))

    def _refuse_other_images(self, other: Measurement) -> None:
        if self.ids != other.ids:
            raise ReportError(_differing_images("the two methods compared", self.ids, other.ids))

    def _mean_over_runs(self, name: str) -> Statistic:
        return lambda sums, n: np.asarray(self._summarise(sums, n)[name]).mean(axis=-1)  # sums (..., runs, k)

    @cached_property
    def _summarise(self) -> Any:
        return metrics.of(self.task).summarise


@dataclass(frozen=True)
class SetMeasurement(Measurement):
    """One method whose metrics are no function of sums over images: they compare sets of images.

    Attributes
    ----------
    folders : tuple of Path
        Where each run is kept, with the features of its reference images.
    """

    intervals: ClassVar[Intervals] = JACKKNIFE

    folders: tuple[Path, ...] = ()

    def metric(self, name: str) -> Interval:
        """Metric `name` in its unit, averaged over the runs, with its jackknife interval over images."""
        draws = self._draws[name].mean(axis=0) if name in self._draws else None
        return jackknife_interval(float(self._values[name].mean()), self._without[name].mean(axis=0), draws)

    def by_seed(self, name: str) -> dict[int, float]:
        """Metric `name` of each seed, a mean over the models."""
        seeds = np.asarray(self.seeds)
        return {int(seed): float(self._values[name][seeds == seed].mean()) for seed in sorted(set(self.seeds))}

    def minus(self, other: Measurement, name: str) -> Interval:
        """Difference of metric `name` to `other` in its unit, without the same groups of images of both.

        Raises
        ------
        ReportError
            When the two were measured on different images.
        """
        self._refuse_other_images(other)
        value = float(self._values[name].mean() - other._values[name].mean())
        without = self._without[name].mean(axis=0) - other._without[name].mean(axis=0)
        draws = self._draws[name].mean(axis=0) - other._draws[name].mean(axis=0) if name in self._draws else None
        return jackknife_interval(value, without, draws)

    @cached_property
    def _values(self) -> dict[str, np.ndarray]:
        """Every metric of every run, (runs,)."""
        return self._of_runs(metrics.of(self.task).evaluate)

    @cached_property
    def _draws(self) -> dict[str, np.ndarray]:
        """What those metrics that are means of random draws are means of, (runs, draws)."""
        return self._of_runs(metrics.of(self.task).random_parts)

    @cached_property
    def _without(self) -> dict[str, np.ndarray]:
        """Every metric of every run without each group of images, (runs, groups)."""
        room, groups = metrics.of(self.task), groups_of(self.n)
        return self._of_runs(lambda rows, features, _: room.leave_out(rows, features, groups))

    def _of_runs(self, function: Callable[..., dict[str, Any]]) -> dict[str, np.ndarray]:
        """What a function of (rows, reference, KID subset) gives for every run: by metric, the runs first."""
        found = [function(self.per_image[:, run], *compared) for run, compared in enumerate(self._compared)]
        return {name: np.stack([each[name] for each in found]) for name in found[0]}

    @cached_property
    def _compared(self) -> list[tuple[np.ndarray, int]]:
        """Features of the reference images of every run, and how many images a subset of KID has."""
        return [(read_reference(folder), read_identity(folder).config["data"]["kid_subset"]) for folder in self.folders]


def read_reference(folder: Path) -> np.ndarray:
    """Features of the images that a run's images are compared with, (m, d) float32.

    Raises
    ------
    RecordError
        They are not there, or cannot be read.
    """
    path = folder / FILE
    try:
        return load_file(path)["features"]
    except (OSError, KeyError, SafetensorError) as error:
        raise RecordError(
            f"{path} is not there or broken: delete it if it is, and run the same command again to compute it."
        ) from error


def intervals_of(task: str) -> Intervals:
    """How the intervals of a task's metrics come about."""
    return _kind(task).intervals


def _kind(task: str) -> type[Measurement]:
    return SetMeasurement if hasattr(metrics.of(task), "evaluate") else Measurement


def metrics_of(task: str) -> dict[str, Metric]:
    """What a column may be, by name, for the runs of a task."""
    return {metric.name: metric for metric in metrics.of(task).METRICS}


def collect(runs: Iterable[Run], task: str, method: str, models: Collection[str] | None = None) -> Measurement | None:
    """Gather what every run holds of one method; several runs that hold it are models, or repeats.

    Parameters
    ----------
    runs : iterable of Run
    task : str
        Runs of other tasks are passed over.
    method : str
        The label under which records keep the method's statistics.
    models : collection of str, optional
        Runs of other models are passed over.

    Returns
    -------
    Measurement or None
        None when no run holds the method, or none that does is of one of the models.

    Raises
    ------
    ReportError
        When an image occurs twice in a run, lacks the method, or is not in all of the runs; when one of the models has
        not been run with all of the seeds, or statistics of runs are of different length.
    """
    held = [
        run
        for run in runs
        if run.task == task and (models is None or run.model in models) and _holds(run.records, method)
    ]
    if not held:
        return None
    statistics = [_statistics(run, method) for run in held]
    ids = tuple(sorted(statistics[0]))
    for run, found in zip(held, statistics, strict=True):
        if tuple(sorted(found)) != ids:
            names = f"{held[0].name} and {run.name}"
            raise ReportError(_differing_images(f"{method!r} of runs {names}", ids, tuple(found)))
    return _measurement(task, ids, held, statistics, method)


def _measurement(
    task: str, ids: tuple[str, ...], runs: Sequence[Run], statistics: Sequence[Mapping[str, list[float]]], method: str
) -> Measurement:
    lengths = {len(found[ids[0]]) for found in statistics}
    seeds, models = tuple(run.seed for run in runs), tuple(run.model for run in runs)
    if len(lengths) > 1:
        raise ReportError(
            f"Runs of {method!r} by {', '.join(dict.fromkeys(models))} hold {sorted(lengths)} numbers for an image: "
            "average only models of one depth, in runs with the same settings."
        )
    if len(set(zip(models, seeds, strict=True))) != len(set(models)) * len(set(seeds)):
        raise ReportError(f"{method!r} was not run with the same seeds for {', '.join(dict.fromkeys(models))}; do so.")
    kind = _kind(task)
    numbers = (
        np.float32 if kind is SetMeasurement else np.float64
    )  # features, thousands an image; or counts to be summed
    per_image = np.array([[found[image] for found in statistics] for image in ids], dtype=numbers)
    more = {"folders": tuple(_folder(run) for run in runs)} if kind is SetMeasurement else {}
    return kind(task, ids, seeds, models, per_image, **more)


def _folder(run: Run) -> Path:
    if run.folder is None:
        raise ReportError(f"Run {run.name} is without its folder, which holds the reference images' features; give it.")
    return run.folder


def _holds(records: Records, method: str) -> bool:
    return any(method in record["stats"] for record in records)


def _statistics(run: Run, method: str) -> dict[str, list[float]]:
    row = metrics.of(run.task).row
    statistics: dict[str, list[float]] = {}
    for record in run.records:
        image = record["id"]
        if image in statistics:
            raise ReportError(f"Run {run.name} holds image {image!r} twice; merge its shards with records.merge.")
        if method not in record["stats"]:
            raise ReportError(
                f"Run {run.name} lacks method {method!r} for image {image!r}; run it again with that method."
            )
        statistics[image] = row(record["stats"][method])
    return statistics


def _differing_images(what: str, first: Sequence[str], second: Sequence[str]) -> str:
    odd = sorted(set(first) ^ set(second))
    return f"Different images for {what}: {len(odd)} are in one only, e.g. {odd[0]!r}; finish both on the same data."
