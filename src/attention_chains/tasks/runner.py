"""The loop every task shares: samples in, durable records out, resumed where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from attention_chains.config import RunConfig, identity
from attention_chains.data.errors import DataError
from attention_chains.records import RunIdentity, Shard, ShardStore, open_shard, read_run, run_folder
from attention_chains.tracking import open_tracker

Record = dict[str, Any]


class Task(Protocol):
    """What the loop needs to know of a task."""

    def missing(self) -> list[str]:
        """Everything that is not there to run it, a sentence each."""

    def dataset(self) -> Any:
        """The samples: `len`, `[i]`, `ids`, `fingerprint`."""

    def weights(self) -> str:
        """Hash of the weights, without loading them."""

    def prepared(self, folder: Path) -> bool:
        """Whether what a finished run's numbers are made of, beside its records, is in its folder."""

    def prepare(self, folder: Path) -> None:
        """Do what concerns all samples, before the first of them is checked; raise DataError where it cannot be done.

        `folder` is the run's, for what is kept beside the records; other shards may be at work in it.
        """

    def check(self, sample: Any) -> None:
        """Raise DataError for a sample that the task cannot use; loads the model when first called."""

    def measure(self, samples: Sequence[Any], seed: int) -> Iterable[Mapping[str, Any]]:
        """Statistics of every sample, in their order; each is recorded before the next one is asked for."""

    def running(self, records: Sequence[Record]) -> dict[str, float]:
        """The metrics to show while the run goes on."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    folder : Path
        The run's folder under results/runs/.
    seed : int
        Seed of the noise and of every other random choice.
    records : list of dict
        The measured samples so far, of all shards.
    skipped : int
        Bad samples left out.
    total : int
        Samples of the whole run; more than are measured while other shards are at work.
    """

    folder: Path
    seed: int
    records: list[Record]
    skipped: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether every sample is measured or skipped."""
        return len(self.records) + self.skipped == self.total


def run_task(task: Task, config: RunConfig) -> Outcome:
    """Run what is not yet recorded of one task with one seed.

    Raises
    ------
    DataError
        Samples that cannot be used, all of them counted, unless data.skip_bad; also those that an earlier run left out.
    RecordError
        The results folder cannot be written, or another process has this shard.
    """
    dataset = task.dataset()
    what, folder = _place(task, config)
    shard = Shard(config.shard.index, config.shard.count)
    with open_shard(folder, what, shard) as store:
        todo = [i for i, name in enumerate(dataset.ids) if shard.owns(i) and name not in store.finished]
        if todo or not task.prepared(folder):
            task.prepare(folder)
        if todo:
            _work(task, dataset, todo, store, config, folder / "tracking" / shard.name)
    outcome = _outcome(folder, config, len(dataset))
    if outcome.skipped and not config.data.skip_bad:
        raise DataError(
            f"{outcome.skipped} samples were left out with data.skip_bad=true when {folder} was made: say so again, or "
            "delete that folder."
        )
    return outcome


def read_outcome(task: Task, config: RunConfig) -> Outcome | None:
    """What is recorded of one task with one seed; None where nothing is.

    Raises
    ------
    RecordError
        A record is corrupt.
    """
    _, folder = _place(task, config)
    return _outcome(folder, config, len(task.dataset())) if folder.exists() else None


def _place(task: Task, config: RunConfig) -> tuple[RunIdentity, Path]:
    what = RunIdentity(identity(config), config.task.reading, task.weights(), task.dataset().fingerprint)
    return what, run_folder(config.out, config.task.name, config.model.name, what)


def _outcome(folder: Path, config: RunConfig, total: int) -> Outcome:
    records = read_run(folder)
    measured = [record for record in records if "skipped" not in record]
    return Outcome(folder, config.seed, measured, len(records) - len(measured), total)


def _work(task: Task, dataset: Any, todo: Sequence[int], store: ShardStore, config: RunConfig, folder: Path) -> None:
    todo = _without_bad(task, dataset, todo, store, config.data.skip_bad)
    logger = asdict(config.logger)
    tracker = open_tracker(**logger, folder=folder, run_name=folder.parent.parent.name, config=identity(config))
    done: list[Record] = []
    try:
        what = f"{config.task.name} {config.model.name} (seed {config.seed})"
        with tqdm(total=len(todo), desc=what, unit="sample", smoothing=0.1) as bar:
            for batch in _batches(todo, config.batch_size):
                samples = [dataset[index] for index in batch]
                measured = task.measure(samples, config.seed)
                for index, sample, statistics in zip(batch, samples, measured, strict=True):
                    done.append({"index": index, "id": sample.id, **statistics})
                    store.append(done[-1])
                running = task.running(done)
                tracker.log({**running, "samples": len(store.finished)}, step=len(store.finished))
                bar.set_postfix({name: f"{value:.3g}" for name, value in running.items()}, refresh=False)
                bar.update(len(batch))
    finally:
        tracker.finish()


def _without_bad(task: Task, dataset: Any, todo: Sequence[int], store: ShardStore, skip: bool) -> list[int]:
    """Try every sample before the first is measured: a bad one is known now, not after hours."""
    bad: dict[int, str] = {}
    for index in tqdm(todo, desc="checking samples", unit="sample", leave=False):
        try:
            task.check(dataset[index])
        except DataError as error:
            bad[index] = str(error)
    if bad and not skip:
        shown = "\n".join(islice(bad.values(), 10))
        raise DataError(
            f"{len(bad)} of {len(todo)} samples cannot be used; repair them, or leave them out with "
            f"data.skip_bad=true:\n{shown}"
        )
    for index, why in bad.items():
        store.append({"index": index, "id": dataset.ids[index], "skipped": why})
    return [index for index in todo if index not in bad]


def _batches(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(indices), size):
        yield indices[first : first + size]
