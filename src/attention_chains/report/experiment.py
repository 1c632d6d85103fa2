"""An experiment: a table of the paper, filled from the records of runs and written to results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from attention_chains.report.bootstrap import RESAMPLES
from attention_chains.report.comparison import (
    Measurements,
    comparison_section,
    comparisons,
    differences_csv,
    ordering_section,
    ordering_steps,
)
from attention_chains.report.definition import Definition, MiouKind, Row, read_definition
from attention_chains.report.measurement import MEANINGS, Measurement, Records, collect
from attention_chains.report.plot import draw_cells
from attention_chains.report.table import Cell, escape, write_table, write_texts

PAPER_SCALE = "paper"

_PRINTED_AS_MIOU = (
    "The paper prints this number as mIoU. It equals Acc/(2 - Acc), so it is compared with mIoU_ca: where prediction "
    "and label are each stacked as two channels and matched without an argmax, both classes share the intersection C "
    "of correct pixels and the union 2N - C."
)
_NOT_THE_PAPER = (
    "**{scale}**: these are measurements of a small model on small pictures, and not to be compared cell by cell with "
    "the paper's "
    "numbers, which stand beside them for orientation."
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

    def measurements(self, records_by_run: Mapping[str, Records]) -> Measurements:
        """Measurement of every row, by label; several runs that hold a method are repeats of it.

        Raises
        ------
        ValueError
            When repeats hold different images, or a run holds an image twice or without a method.
        """
        return {row.label: collect(records_by_run, row.method) if row.method else None for row in self.definition.rows}

    def cells(self, measurements: Measurements, scale: str, protocol: str) -> list[Cell]:
        """Cells in reading order, row by row; without a measurement the measured side is empty."""
        return [
            _cell(row, column, measurements[row.label], scale, protocol)
            for row in self.definition.rows
            for column in self.definition.columns
        ]

    def render(
        self,
        records_by_run: Mapping[str, Records],
        results: Path,
        scale: str,
        protocol: str,
        measured_on: str,
        skipped: int = 0,
        pictures: Sequence[str] = (),
    ) -> tuple[list[Cell], list[Path]]:
        """Fill the table and write results/<name>/<scale>/{table.md, table.csv, differences.csv, plot.png}.

        Parameters
        ----------
        records_by_run : mapping of run name to records
            See `measurements`.
        results : Path
            The results folder.
        scale, protocol : str
            How the records came about; printed with the numbers.
        measured_on : str
            Model and data, in words.
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
        ValueError
            See `measurements`.
        OSError
            When the files cannot be written.
        """
        measured = self.measurements(records_by_run)
        cells = self.cells(measured, scale, protocol)
        differences = comparisons(self.definition, cells, measured)
        folder, title = results / self.name / scale, self.definition.title
        shown = [f"![{Path(picture).stem}]({picture})" for picture in ("plot.png", *pictures)]
        caption = [*_caption(cells, measured_on, skipped, list(records_by_run)), *shown]
        sections = [comparison_section(differences), *self._orderings(cells, measured), self._notes(cells, measured)]
        paths = write_table(cells, folder, title, caption, sections)
        paths += write_texts(folder, {"differences.csv": differences_csv(differences)})
        return cells, [*paths, draw_cells(cells, folder / "plot.png", title)]

    def _orderings(self, cells: Sequence[Cell], measured: Measurements) -> list[str]:
        orderings = self.definition.orderings
        return [ordering_section(ordering, ordering_steps(ordering, cells, measured)) for ordering in orderings]

    def _notes(self, cells: Sequence[Cell], measured: Measurements) -> str:
        meanings = [f"{escape(column)}: {escape(MEANINGS[column])}" for column in self.definition.columns]
        notes = [*self._reproduced(cells), *self._unmeasured(measured), *self.definition.notes, *meanings]
        return "## Notes\n\n" + "\n".join(f"- {note}" for note in notes)

    def _reproduced(self, cells: Sequence[Cell]) -> list[str]:
        distances = [
            abs(cell.difference) for cell in cells if cell.difference is not None and cell.scale == PAPER_SCALE
        ]
        if not distances:
            return []
        tolerance = self.definition.tolerance
        strict, acceptable = (sum(d <= limit for d in distances) for limit in (tolerance.strict, tolerance.acceptable))
        return [
            f"Of {len(distances)} numbers that can be compared, {strict} lie within {tolerance.strict:g} of the paper "
            "(reproduced) and "
            f"{acceptable} within {tolerance.acceptable:g} (acceptable)."
        ]

    def _unmeasured(self, measured: Measurements) -> list[str]:
        rows = [row.label for row in self.definition.rows if measured[row.label] is None]
        return [f"Not measured: {', '.join(rows)}."] if rows else []


def _caption(cells: Sequence[Cell], measured_on: str, skipped: int, runs: Sequence[str]) -> list[str]:
    scale, protocol = cells[0].scale, cells[0].protocol
    counts = sorted({cell.n for cell in cells if cell.n is not None})
    images = " or ".join(map(str, counts)) or "no"
    repeats = max((cell.runs for cell in cells if cell.runs is not None), default=1)
    named = ", ".join(f"`{run}`" for run in runs) or "none"
    caption = [
        f"Measured: {measured_on}; scale `{scale}`, {images} images, {skipped} skipped.",
        f"Protocol `{protocol}`. Runs: {named}.",
        f"Intervals: 95 % percentile bootstrap over images, {RESAMPLES} resamples."
        + (_REPEATS.format(repeats) if repeats > 1 else ""),
    ]
    if scale != PAPER_SCALE:
        caption.append(_NOT_THE_PAPER.format(scale=scale))
    return caption


def _cell(row: Row, column: str, measurement: Measurement | None, scale: str, protocol: str) -> Cell:
    printed, note = _as_printed(row, column)
    paper = dict(paper=row.paper.get(printed), paper_std=row.paper_std.get(printed), note=note)
    if measurement is None:
        return Cell(
            row.label, column, measured=None, low=None, high=None, n=None, scale=scale, protocol=protocol, **paper
        )
    interval = measurement.metric(column)
    return Cell(
        row.label,
        column,
        measured=_number(interval.value),
        low=_number(interval.low),
        high=_number(interval.high),
        n=measurement.n,
        scale=scale,
        protocol=protocol,
        std=measurement.spread(column),
        runs=measurement.runs,
        **paper,
    )


def _as_printed(row: Row, column: str) -> tuple[str, str]:
    """Column under which the paper prints what belongs into `column` ("" for nowhere), and what to note about it."""
    if row.miou_kind is MiouKind.acc_over_2_minus_acc:
        return {"mIoU": ("", ""), "mIoU_ca": ("mIoU", _PRINTED_AS_MIOU)}.get(column, (column, ""))
    return column, _UNKNOWN_MIOU if row.miou_kind is MiouKind.unknown and column == "mIoU" else ""


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
