"""What a finished run shows: a table on the console, and the files of the experiment it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from attention_chains.config import RunConfig
from attention_chains.report.definition import Definition, Row
from attention_chains.report.experiment import Experiment
from attention_chains.report.measurement import MEANINGS
from attention_chains.report.panels import draw_examples
from attention_chains.report.table import console_table
from attention_chains.tasks import Outcome, Task

WIDTH = 120  # of tables written to a file or a pipe, where there is no terminal to fit into


def present(task: Task, config: RunConfig, outcomes: Sequence[Outcome], experiments: Path) -> dict[str, float]:
    """Print what was measured; for an experiment, write its table and figures too.

    Parameters
    ----------
    task
        The task that ran; it draws the examples.
    config
        The resolved configuration.
    outcomes
        One per seed.
    experiments
        The folder of the experiments' definitions.

    Returns
    -------
    dict
        The last row's numbers by column, in percent.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    unfinished = [outcome for outcome in outcomes if not outcome.complete]
    for outcome in unfinished:
        done = len(outcome.records) + outcome.skipped
        console.print(f"{done} of {outcome.total} samples so far, all shards together ({outcome.folder}).")
    if unfinished or not all(outcome.records for outcome in outcomes):
        return {}  # other shards are at work: the one that ends last shows the table
    experiment = _experiment(config, experiments)
    records = {outcome.folder.name: outcome.records for outcome in outcomes}
    cells = experiment.cells(experiment.measurements(records), config.scale, config.task.reading)
    console.print(console_table(cells, f"{experiment.definition.title} ({described(config)})"))
    if config.experiment is not None:
        _write(task, config, outcomes, experiment, console)
    return {cell.column: cell.measured for cell in cells if cell.row == cells[-1].row and cell.measured is not None}


def described(config: RunConfig) -> str:
    """What was measured, on what: "flux on digit_scenes, split test, word colour"."""
    data = config.data
    choices = [f"{name} {value}" for name, value in (("split", data.split), ("word", data.word)) if value is not None]
    return ", ".join([f"{config.model.name} on {data.name}", *choices])


def _experiment(config: RunConfig, experiments: Path) -> Experiment:
    """The experiment of a run; a run without one gets a table of its own methods, with no paper beside it."""
    if config.experiment is not None:
        return Experiment.read(experiments / config.experiment)
    rows = [Row(label=label, method=label) for label in config.methods]
    title = config.task.name
    return Experiment("", Definition(title=title, columns=list(MEANINGS), rows=rows))


def _write(
    task: Task, config: RunConfig, outcomes: Sequence[Outcome], experiment: Experiment, console: Console
) -> None:
    results, panels = Path(config.out), experiment.definition.panels
    pictures = []
    if panels is not None:
        picture = results / experiment.name / config.scale / "figure.png"
        draw_examples(task, panels, config.scale, config.seed, picture)
        pictures.append(picture.name)
    records = {outcome.folder.name: outcome.records for outcome in outcomes}
    skipped = max(outcome.skipped for outcome in outcomes)  # the same samples in every repeat
    _, paths = experiment.render(
        records, results, config.scale, config.task.reading, described(config), skipped, pictures
    )
    shown = [*paths, *(results / experiment.name / config.scale / picture for picture in pictures)]
    console.print("Written: " + ", ".join(str(path) for path in shown))
