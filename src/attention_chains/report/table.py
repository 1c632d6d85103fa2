"""Cells of a table, and the table as Markdown, CSV and on the console."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from attention_chains.records.files import write_atomically

_MARKS = "†‡§¶"


@dataclass(frozen=True)
class Cell:
    """One number of a table beside the paper's, in the column's unit; None means that there is none.

    Attributes
    ----------
    row, column : str
        Where the cell stands.
    paper, measured : float or None
        The paper's number, and ours.
    low, high : float or None
        Ends of the 95 % interval of `measured` over images.
    n : int or None
        Number of images.
    scale, protocol : str
        How `measured` came about.
    paper_std, std : float or None
        Standard deviations over runs, the paper's and ours.
    runs : int or None
        Number of seeds that `measured` is the mean of.
    note : str
        What a reader must know about this cell; a footnote of the table.
    metric : str
        What is measured, where the column does not say so (it is a model family).
    unit : str
        "%", or empty for a number without a unit.
    decimals : int or None
        How many are printed; see `number`.
    """

    row: str
    column: str
    paper: float | None
    measured: float | None
    low: float | None
    high: float | None
    n: int | None
    scale: str
    protocol: str
    paper_std: float | None = None
    std: float | None = None
    runs: int | None = None
    note: str = ""
    metric: str = ""
    unit: str = "%"
    decimals: int | None = None

    def text(self, value: float | None, signed: bool = False) -> str:
        """A number of this cell, as it is printed."""
        return number(value, signed, self.unit, self.decimals)

    @property
    def printed_paper(self) -> str:
        """The paper's number."""
        return published(self.paper, decimals=self.decimals)

    @property
    def heading(self) -> str:
        """The column with what it measures: "Acc (%)", "ViT (AUC)", "DINOv1 (Acc, %)"."""
        what = ", ".join(filter(None, [self.metric, self.unit]))
        return f"{self.column} ({what})" if what else self.column

    @property
    def difference(self) -> float | None:
        """Measured minus paper; None unless both are there."""
        return None if self.paper is None or self.measured is None else self.measured - self.paper


def write_table(
    cells: Sequence[Cell], folder: Path, title: str, notes: Sequence[str] = (), sections: Sequence[str] = ()
) -> list[Path]:
    """Write table.md and table.csv.

    Parameters
    ----------
    cells : sequence of Cell
        In reading order.
    folder : Path
        Made if it is not there.
    title : str
    notes : sequence of str
        Paragraphs between the title and the table.
    sections : sequence of str
        Markdown that follows the table.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    OSError
        When the folder cannot be written.
    """
    return write_texts(folder, {"table.md": markdown(cells, title, notes, sections), "table.csv": as_csv(cells)})


def write_texts(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write text files into a folder, each whole or not at all; see `write_table` for what is raised."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def markdown(cells: Sequence[Cell], title: str, notes: Sequence[str] = (), sections: Sequence[str] = ()) -> str:
    """Table as Markdown: everything at a glance, then one table per column; arguments as in `write_table`."""
    marks = _marks(cells)
    parts = [f"# {title}", *notes, "## At a glance", _glance(cells, marks)]
    for column in _distinct(cell.column for cell in cells):
        of_column = [cell for cell in cells if cell.column == column]
        parts += [f"## {of_column[0].heading}", _column_table(of_column, marks)]
    parts += [f"{mark} {note}" for note, mark in marks.items()]
    return "\n\n".join([*parts, *sections]) + "\n"


def as_csv(cells: Sequence[Cell]) -> str:
    """One line per cell, all fields and the difference; empty where there is no number."""
    families = any(cell.metric for cell in cells)
    names = [field.name for field in fields(Cell) if families or field.name not in ("metric", "unit")]
    names.remove("decimals")
    names.insert(names.index("measured") + 1, "difference")
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_csv_value(getattr(cell, name)) for name in names] for cell in cells)
    return text.getvalue()


def console_table(cells: Sequence[Cell], title: str) -> Table:
    """Rich table: per cell the measured number with its interval below, and the paper's in parentheses."""
    scales = ", ".join(_distinct(cell.scale for cell in cells))
    percent = all(cell.unit == "%" for cell in cells)
    what = ", ".join(_distinct([*filter(None, [cell.metric for cell in cells]), *["in percent"] * percent]))
    caption = (
        f"{what}{': ' if what else ''}measured at scale {scales} (paper), and the 95 % interval of the measured number"
    )
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1), caption_justify="left")
    table.add_column("", no_wrap=True)
    headings = {cell.column: cell.column if percent or cell.metric else cell.heading for cell in cells}
    for heading in headings.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in _distinct(cell.row for cell in cells):
        table.add_row(row, *[_console_cell(cell) for cell in cells if cell.row == row])
    return table


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table, first column left, the others right; `header` and each row hold one text per column."""
    lines = [list(header), [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, signed: bool = False, unit: str = "%", decimals: int | None = None) -> str:
    """Two decimals of a percentage, three of a number without a unit, or as many as are given; empty for None.

    With a typographic minus.
    """
    if value is None:
        return ""
    places = decimals if decimals is not None else 2 if unit == "%" else 3
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", "\N{MINUS SIGN}")


def published(value: float | None, signed: bool = False, decimals: int | None = None) -> str:
    """A number of the paper: with two decimals, or one fewer than ours where ours has more; empty for None."""
    return number(value, signed, decimals=None if decimals is None else max(2, decimals - 1))


def span(
    low: float | None, high: float | None, signed: bool = False, unit: str = "%", decimals: int | None = None
) -> str:
    """Interval as text; empty without ends."""
    if low is None or high is None:
        return ""
    return f"[{number(low, signed, unit, decimals)}, {number(high, signed, unit, decimals)}]"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def _glance(cells: Sequence[Cell], marks: dict[str, str]) -> str:
    columns = _distinct(cell.column for cell in cells)
    rows = [
        [escape(row), *[_glance_cell(cell, marks) for cell in cells if cell.row == row]]
        for row in _distinct(cell.row for cell in cells)
    ]
    return "Measured, and the paper's number in parentheses.\n\n" + markdown_table(["", *map(escape, columns)], rows)


def _glance_cell(cell: Cell, marks: dict[str, str]) -> str:
    paper = f"({cell.printed_paper})" if cell.paper is not None else ""
    return f"{cell.text(cell.measured)} {paper}".strip() + marks.get(cell.note, "")


def _column_table(cells: Sequence[Cell], marks: dict[str, str]) -> str:
    scales = ", ".join(_distinct(cell.scale for cell in cells))
    header = ["", "paper", f"measured ({scales})", "difference", "95 % interval", "n"]
    rows = [
        [
            escape(cell.row),
            _with_std(cell.printed_paper, published(cell.paper_std)) + marks.get(cell.note, ""),
            _with_std(cell.text(cell.measured), cell.text(cell.std)),
            cell.text(cell.difference, signed=True),
            span(cell.low, cell.high, unit=cell.unit, decimals=cell.decimals),
            "" if cell.n is None else str(cell.n),
        ]
        for cell in cells
    ]
    return markdown_table(header, rows)


def _console_cell(cell: Cell) -> Text:
    paper = f" ({cell.printed_paper})" if cell.paper is not None else ""
    text = Text(cell.text(cell.measured), style="bold").append(paper, style="not bold dim")
    if cell.low is None or cell.high is None:
        return text
    low, high = cell.text(cell.low), cell.text(cell.high)
    return text.append(f"\n{low}\N{EN DASH}{high}", style="not bold dim")


def _with_std(value: str, std: str) -> str:
    return f"{value} ± {std}" if value and std else value


def _csv_value(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}"  # a last bit that differs between machines must not show in a committed file
    return "" if value is None else value


def _marks(cells: Sequence[Cell]) -> dict[str, str]:
    notes = _distinct(cell.note for cell in cells if cell.note)
    return dict(zip(notes, _MARKS, strict=False))


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
