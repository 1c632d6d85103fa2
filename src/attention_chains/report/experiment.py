"""An experiment: a table of the paper, filled from the records of runs and written to results/."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from attention_chains.metrics.metric import Metric
from attention_chains.report.comparison import (
    Measurements,
    comparison_section,
    comparisons,
    differences_csv,
    ordering_section,
    ordering_steps,
    orderings_section,
)
from attention_chains.report.definition import Definition, MiouKind, Row, read_definition
from attention_chains.report.measurement import Measurement, Run, collect, intervals_of, metrics_of
from attention_chains.report.plot import draw_cells
from attention_chains.report.table import Cell, escape, markdown_table, number, span, write_table, write_texts

PAPER_SCALE = "paper"

_PRINTED_AS_MIOU = (
    "The paper prints this number as mIoU. It equals Acc/(2 - Acc), so it is compared with mIoU_ca: where prediction "
    "and label are each stacked as two channels and matched without an argmax, both classes share the intersection C "
    "of correct pixels and the union 2N - C."
)
_NOT_THE_PAPER = (
    "**{scale}**: these are measurements of a small model on small pictures, and not to be compared cell by cell with "
    "the paper's numbers, which are for orientation."
)
_THE_PAPER = (
    "**paper**: measured with the paper's checkpoints and data, as far as they are published (the notes say where they "
    "are not); a difference is measured minus paper."
)
_REPEATS = " Numbers are means over {} runs with different seeds, ± their sample standard deviation."
_UNKNOWN_MIOU = (
    "The paper's mIoU of this row is neither the mean of the two class IoUs nor Acc/(2 - Acc); a difference to it "
    "means little."
)


@dataclass(frozen=True)
class Experiment:
    """A table of the paper and what it takes to fill it.

    Attributes
    ----------
    name : str
        Name of its folder under experiments/ and results/.
    definition : Definition
    """

    name: str
    definition: Definition

    @classmethod
    def read(cls, folder: Path) -> Experiment:
        """Read experiments/<name>/table.yaml.

        Raises
        ------
        ConfigError
            When the file is missing or something in it is wrong.
        """
        return cls(folder.name, read_definition(folder / "table.yaml"))

    @property
    def methods(self) -> list[str]:
        """Method labels that the records must hold to fill the table."""
        return [row.method for row in self.definition.rows if row.method is not None]

    def measurements(self, runs: Sequence[Run], models: Collection[str] = ()) -> Measurements:
        """Measurement of every row in every column; several runs that hold a method are models, or repeats of it.

        Parameters
        ----------
        runs : sequence of Run
        models : collection of str
            The models that the experiment runs at this scale: a family without one of its own is not measured. Empty
            for all models of the families.

        Raises
        ------
        ReportError
            When repeats hold different images, or a run holds an image twice or without a method.
        """
        task, families = self.definition.task, self.definition.families
        found: dict[tuple[str, str], Measurement | None] = {}
        for row in self.definition.rows:
            whole = collect(runs, task, row.method) if row.method and not families else None
            for column in self.definition.columns:
                of_family = _of_family(runs, task, row.method, self._models(column, models)) if families else None
                found[row.label, column] = of_family if families else whole
        return found

    def _models(self, family: str, models: Collection[str]) -> list[str]:
        return [model for model in self.definition.families[family] if not models or model in models]

    def cells(self, measurements: Measurements, scale: str, protocol: str) -> list[Cell]:
        """Cells in reading order, row by row; without a measurement the measured side is empty."""
        return [
            self._cell(row, column, measurements[row.label, column], scale, protocol)
            for row in self.definition.rows
            for column in self.definition.columns
        ]

    def render(
        self,
        runs: Sequence[Run],
        results: Path,
        scale: str,
        protocol: str,
        measured_on: str,
        models: Collection[str] = (),
        skipped: int = 0,
        pictures: Sequence[str] = (),
    ) -> tuple[list[Cell], list[Path]]:
        """Fill the table and write results/<name>/<scale>/{table.md, table.csv, differences.csv, plot.png}.

        Parameters
        ----------
        runs : sequence of Run
            See `measurements`.
        results : Path
            The results folder.
        scale, protocol : str
            How the records came about; printed with the numbers.
        measured_on : str
            Model and data, in words.
        models : collection of str
            See `measurements`.
        skipped : int
            Bad samples that the runs left out.
        pictures : sequence of str
            Names of further pictures in the same folder that table.md shows.

        Returns
        -------
        cells : list of Cell
        paths : list of Path
            The files written.

        Raises
        ------
        ReportError
            See `measurements`.
        OSError
            When the files cannot be written.
        """
        measured = self.measurements(runs, models)
        cells = self.cells(measured, scale, protocol)
        differences = comparisons(self.definition, cells, measured)
        folder, title = results / self.name / scale, self.definition.title
        shown = [f"![{Path(picture).stem}]({picture})" for picture in ("plot.png", *pictures)]
        named, intervals = [run.name for run in runs], intervals_of(self.definition.task)
        caption = [*_caption(cells, measured_on, skipped, named, intervals.single), *self._averaged(models), *shown]
        compared = [comparison_section(differences, intervals)] if differences else []
        sections = [*self._beside(measured), *compared, *self._orderings(cells, measured), self._notes(cells, measured)]
        paths = write_table(cells, folder, title, caption, sections)
        paths += write_texts(folder, {"differences.csv": differences_csv(differences)})
        return cells, [*paths, draw_cells(cells, folder / "plot.png", title)]

    def _cell(self, row: Row, column: str, measurement: Measurement | None, scale: str, protocol: str) -> Cell:
        metric = self.definition.metric_of(column)
        printed, note = _as_printed(row, column)
        known = dict(
            paper=row.paper.get(printed),
            paper_std=row.paper_std.get(printed),
            note=note,
            metric=metric.name if self.definition.families else "",
            unit=metric.unit,
            decimals=metric.decimals,
            scale=scale,
            protocol=protocol,
        )
        if measurement is None:
            return Cell(row.label, column, measured=None, low=None, high=None, n=None, **known)
        interval = measurement.metric(metric.name)
        return Cell(
            row.label,
            column,
            measured=_number(interval.value),
            low=_number(interval.low),
            high=_number(interval.high),
            n=measurement.n,
            std=measurement.spread(metric.name),
            runs=measurement.repeats,
            **known,
        )

    def _averaged(self, models: Collection[str]) -> list[str]:
        if not self.definition.families:
            return []
        named = [f"{family} is {', '.join(self._models(family, models))}" for family in self.definition.families]
        return [f"A column is the mean over the models of a family: {'; '.join(named)}."]

    def _beside(self, measured: Measurements) -> list[str]:
        """A section for each metric that is the same in every row: of the first row that was measured, by family."""
        known = metrics_of(self.definition.task)
        return [_beside_section(known[name], self.definition.columns, measured) for name in self.definition.beside]

    def _orderings(self, cells: Sequence[Cell], measured: Measurements) -> list[str]:
        orderings = self.definition.orderings
        steps = [ordering_steps(self.definition, ordering, cells, measured) for ordering in orderings]
        summary = [orderings_section(orderings, steps)] if self.definition.families and orderings else []
        return [*summary, *map(ordering_section, orderings, steps)]

    def _notes(self, cells: Sequence[Cell], measured: Measurements) -> str:
        known = metrics_of(self.definition.task)
        shown = [self.definition.metric_of(column) for column in self.definition.columns]
        shown += [known[name] for name in self.definition.beside]
        meanings = [f"{escape(metric.name)}: {escape(metric.meaning)}" for metric in dict.fromkeys(shown)]
        notes = [*self._reproduced(cells), *self._unmeasured(measured), *self.definition.notes, *meanings]
        return "## Notes\n\n" + "\n".join(f"- {note}" for note in notes)

    def _reproduced(self, cells: Sequence[Cell]) -> list[str]:
        distances = [
            abs(cell.difference) for cell in cells if cell.difference is not None and cell.scale == PAPER_SCALE
        ]
        tolerance = self.definition.tolerance
        if not distances or tolerance is None:
            return []
        strict, acceptable = (sum(d <= limit for d in distances) for limit in (tolerance.strict, tolerance.acceptable))
        return [
            f"Of {len(distances)} numbers that can be compared, {strict} lie within {tolerance.strict:g} of the paper "
            "(reproduced) and "
            f"{acceptable} within {tolerance.acceptable:g} (acceptable)."
        ]

    def _unmeasured(self, measured: Measurements) -> list[str]:
        gone = [column for column in self.definition.columns if not _any_measured(measured, column=column)]
        gone += [row.label for row in self.definition.rows if not _any_measured(measured, row=row.label)]
        if all(found is None for found in measured.values()):
            return ["Nothing is measured."]
        return [f"Not measured: {', '.join(gone)}."] if gone else []


def _any_measured(measured: Measurements, row: str | None = None, column: str | None = None) -> bool:
    return any(found for (of, by), found in measured.items() if row in (None, of) and column in (None, by))


def _of_family(runs: Sequence[Run], task: str, method: str | None, models: Collection[str]) -> Measurement | None:
    """Mean over the models of a family: all of them, or nothing."""
    found = collect(runs, task, method, models) if method else None
    return found if found and set(found.models) == set(models) else None


def _beside_section(metric: Metric, columns: Sequence[str], measured: Measurements) -> str:
    rows = []
    for column in columns:
        first = next((found for (_, by), found in measured.items() if found and by == column), None)
        value = first.metric(metric.name) if first else None
        numbers = (
            [number(value.value, unit=metric.unit), span(value.low, value.high, unit=metric.unit)] if value else []
        )
        rows.append([escape(column), *(numbers or ["", ""]), str(first.n) if first else ""])
    heading = f"## {metric.title.capitalize()} ({metric.unit or metric.name})"
    return f"{heading}\n\n{markdown_table(['', 'measured', '95 % interval', 'n'], rows)}"


def _caption(cells: Sequence[Cell], measured_on: str, skipped: int, runs: Sequence[str], intervals: str) -> list[str]:
    scale, protocol = cells[0].scale, cells[0].protocol
    counts = sorted({cell.n for cell in cells if cell.n is not None})
    images = " or ".join(map(str, counts)) or "no"
    repeats = max((cell.runs for cell in cells if cell.runs is not None), default=1)
    named = ", ".join(f"`{run}`" for run in runs) or "none"
    caption = [
        f"Measured: {measured_on}; scale `{scale}`, {images} images, {skipped} skipped.",
        f"Protocol `{protocol}`. Runs: {named}.",
        f"Intervals: {intervals}" + (_REPEATS.format(repeats) if repeats > 1 else ""),
    ]
    return [*caption, caption_of_scale(scale)]


def caption_of_scale(scale: str) -> str:
    """What a reader must know before comparing the measured numbers with the paper's."""
    return _THE_PAPER if scale == PAPER_SCALE else _NOT_THE_PAPER.format(scale=scale)


def _as_printed(row: Row, column: str) -> tuple[str, str]:
    """Column under which the paper prints what belongs into `column` ("" for nowhere), and what to note about it."""
    if row.miou_kind is MiouKind.acc_over_2_minus_acc:
        return {"mIoU": ("", ""), "mIoU_ca": ("mIoU", _PRINTED_AS_MIOU)}.get(column, (column, ""))
    return column, _UNKNOWN_MIOU if row.miou_kind is MiouKind.unknown and column == "mIoU" else ""


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
