"""What finished runs show: a table on the console, and the files of the experiment they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from attention_chains import tasks
from attention_chains.capture.errors import CaptureError
from attention_chains.chain.errors import ChainError
from attention_chains.config import RunConfig
from attention_chains.data.errors import DataError
from attention_chains.models.assets import first_line
from attention_chains.models.errors import AssetError
from attention_chains.report.curves import FigureDefinition, read_figure, render_figure
from attention_chains.report.definition import Definition, Panels, Row
from attention_chains.report.experiment import Experiment
from attention_chains.report.grid import GridDefinition, draw_images, read_grid, render_grid
from attention_chains.report.measurement import Run, metrics_of
from attention_chains.report.panels import draw_examples
from attention_chains.report.significance import TestDefinition, console_tests, read_tests, render_tests
from attention_chains.report.table import console_table, write_texts
from attention_chains.tasks import Finished

WIDTH = 120  # of tables written to a file or a pipe, where there is no terminal to fit into
UNDRAWN = (AssetError, CaptureError, ChainError, DataError, torch.OutOfMemoryError)  # what a picture may fail with
TABLE, FIGURE, GRID = "table.yaml", "figure.yaml", "grid.yaml"


@dataclass(frozen=True)
class Shown:
    """Finished runs, and what was asked for.

    Attributes
    ----------
    finished : list of Finished
        One per model and task.
    asked : RunConfig
        What the command line resolved to.
    console : Console
    """

    finished: list[Finished]
    asked: RunConfig
    console: Console

    @property
    def runs(self) -> list[Run]:
        """The records, run by run."""
        return [
            Run(
                outcome.folder.name,
                each.config.task.name,
                each.config.model.name,
                outcome.seed,
                outcome.records,
                outcome.folder,
            )
            for each in self.finished
            for outcome in each.outcomes
        ]

    @property
    def models(self) -> list[str]:
        """The models that the experiment runs at this scale; those that were run, where it names none."""
        named = self.asked.models.get(self.asked.scale, [])
        return named or list(dict.fromkeys(each.config.model.name for each in self.finished))

    @property
    def readings(self) -> list[str]:
        """Protocols with the readings chosen in them."""
        return list(dict.fromkeys(each.config.task.reading for each in self.finished))

    @property
    def skipped(self) -> int:
        """Samples left out: the same in every repeat."""
        return max(outcome.skipped for each in self.finished for outcome in each.outcomes)

    @property
    def results(self) -> Path:
        """The results folder."""
        return Path(self.asked.out)

    def say_written(self, paths: Sequence[Path]) -> None:
        """Name the files on the console."""
        self.console.print("Written: " + ", ".join(map(str, paths)))


def present(
    finished: Sequence[Finished], recorded: Sequence[Finished], asked: RunConfig, experiments: Path
) -> dict[str, float]:
    """Print what was measured; for an experiment, write its table and figures too.

    Parameters
    ----------
    finished
        What was run now.
    recorded
        What earlier runs left of the same experiment's other models.
    asked
        What the command line resolved to; it names the experiment.
    experiments
        The folder of the experiments' definitions.

    Returns
    -------
    dict
        The last row's numbers by column, in the columns' units; empty for a figure and a table of tests.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if _unfinished(finished, console):
        return {}  # other shards are at work: the one that ends last shows the table
    shown = Shown(_in_order([*finished, *recorded], asked), asked, console)
    if asked.experiment is None:
        return _present_table(shown, _own_table(shown))
    folder = experiments / asked.experiment
    if (folder / FIGURE).exists():
        return _present_figure(shown, folder.name, read_figure(folder / FIGURE))
    if (folder / GRID).exists():
        return _present_grid(shown, folder.name, read_grid(folder / GRID))
    if asked.parts:
        return _present_tests(shown, folder.name, read_tests(folder / TABLE))
    return _present_table(shown, Experiment.read(folder))


def described(finished: Sequence[Finished]) -> str:
    """What was measured, on what: "flux on digit_scenes, split test, word colour"."""
    models: dict[str, list[str]] = {}
    for each in finished:
        models.setdefault(_described_data(each.config), []).append(each.config.model.name)
    return "; ".join(f"{', '.join(dict.fromkeys(names))} on {data}" for data, names in models.items())


def _described_data(config: RunConfig) -> str:
    data = config.data
    named = (
        ("split", data.split),
        ("word", data.word),
        ("training images", data.train),
        ("features of", data.extractor),
        ("beside", data.reference),
        ("reference images", data.reference_n),
        ("KID subsets of", data.kid_subset),
    )
    return ", ".join([data.name, *(f"{name} {value}" for name, value in named if value is not None)])


def _unfinished(finished: Sequence[Finished], console: Console) -> bool:
    outcomes = [outcome for each in finished for outcome in each.outcomes]
    unfinished = [outcome for outcome in outcomes if not outcome.complete]
    for outcome in unfinished:
        done = len(outcome.records) + outcome.skipped
        console.print(f"{done} of {outcome.total} samples so far, all shards together ({outcome.folder}).")
    return bool(unfinished) or not all(outcome.records for outcome in outcomes)


def _in_order(finished: Sequence[Finished], asked: RunConfig) -> list[Finished]:
    """In the order in which the experiment names its models, whichever of them were run now."""
    named = asked.models.get(asked.scale, [])
    place = {name: position for position, name in enumerate(named)}
    return sorted(finished, key=lambda each: place.get(each.config.model.name, len(place)))


def _own_table(shown: Shown) -> Experiment:
    """A run without an experiment gets a table of its own methods, with no paper beside it."""
    config = shown.asked
    rows = [Row(label=label, method=label) for label in config.methods]
    name = config.task.name
    return Experiment("", Definition(title=name, task=name, columns=list(metrics_of(name)), rows=rows))


def _present_table(shown: Shown, experiment: Experiment) -> dict[str, float]:
    reading = ", ".join(shown.readings)
    measured = experiment.measurements(shown.runs, shown.models)
    cells = experiment.cells(measured, shown.asked.scale, reading)
    shown.console.print(console_table(cells, f"{experiment.definition.title} ({described(shown.finished)})"))
    if shown.asked.experiment is not None:
        _write_table(shown, experiment, reading)
    return {cell.column: cell.measured for cell in cells if cell.row == cells[-1].row and cell.measured is not None}


def _list_images(shown: Shown, folder: Path) -> list[Path]:
    """Say which images of a data set were taken: images.txt, an id a line. Generated ones are known by their seed."""
    if shown.asked.data.path is None:
        return []
    ids = {record["id"] for run in shown.runs for record in run.records}
    return write_texts(folder, {"images.txt": "".join(f"{name}\n" for name in sorted(ids))})


def _write_table(shown: Shown, experiment: Experiment, reading: str) -> None:
    asked, panels = shown.asked, experiment.definition.panels
    pictures = []
    if panels is not None:
        pictures = _examples(shown, panels, shown.results / experiment.name / asked.scale / "figure.png")
    if experiment.definition.grid is not None:
        columns = {row.label: row.method for row in experiment.definition.rows if row.method}
        path = shown.results / experiment.name / asked.scale / "images.png"
        pictures.append(draw_images(columns, experiment.definition.grid, shown.runs, path))
    listed = _list_images(shown, shown.results / experiment.name / asked.scale)
    _, paths = experiment.render(
        shown.runs,
        shown.results,
        asked.scale,
        reading,
        described(shown.finished),
        shown.models,
        shown.skipped,
        [picture.name for picture in pictures],
    )
    shown.say_written([*paths, *pictures, *listed])


def _examples(shown: Shown, panels: Panels, path: Path) -> list[Path]:
    """Draw the picture beside a table, which loads the model anew: what fails there does not take the table along."""
    tasks.free_memory()
    try:
        draw_examples(tasks.build(shown.asked), panels, shown.asked.scale, shown.asked.seed, path)
    except UNDRAWN as error:
        shown.console.print(f"[yellow]The picture beside the table is left out: {first_line(error)}[/yellow]")
        return []
    return [path]


def _present_tests(shown: Shown, name: str, definition: TestDefinition) -> dict[str, float]:
    about = (shown.asked.scale, shown.readings, described(shown.finished))
    tested, paths = render_tests(name, definition, shown.runs, shown.results, *about, skipped=shown.skipped)
    shown.console.print(console_tests(tested, definition.title))
    shown.say_written(paths)
    return {}


def _present_figure(shown: Shown, name: str, definition: FigureDefinition) -> dict[str, float]:
    about = (shown.asked.scale, ", ".join(shown.readings), described(shown.finished))
    _, paths = render_figure(name, definition, shown.runs, shown.results, *about)
    shown.say_written(paths)
    return {}


def _present_grid(shown: Shown, name: str, definition: GridDefinition) -> dict[str, float]:
    about = (shown.asked.scale, ", ".join(shown.readings), described(shown.finished))
    shown.say_written(render_grid(name, definition, shown.runs, shown.results, *about))
    return {}
