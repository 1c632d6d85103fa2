"""A table as a picture: a panel per column, a dot with its interval per row, the paper's number as a diamond."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attention_chains.report.figure import save
from attention_chains.report.table import Cell

_MEASURED, _PAPER, _GUIDE = "#1b6ca8", "#c1440e", "#e6e6e6"


def draw_cells(cells: Sequence[Cell], path: Path, title: str) -> Path:
    """Draw the cells of a table into a PNG.

    Parameters
    ----------
    cells : sequence of Cell
        Every row in every column.
    path : Path
        File to write; its folder is made if it is not there.
    title : str

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        Without cells.
    OSError
        When the file cannot be written.
    """
    if not cells:
        raise ValueError("A plot needs at least one cell, got none; give the table rows and columns.")
    rows, columns = (list(dict.fromkeys(names)) for names in ([c.row for c in cells], [c.column for c in cells]))
    figure = Figure(figsize=(2.2 + 1.9 * len(columns), 1.3 + 0.27 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(panels, columns, strict=True):
        of_column = [cell for cell in cells if cell.column == column]
        _draw_column(axis, of_column, rows)
        axis.set_title(of_column[0].heading, fontsize=9)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    _add_legend(figure, cells)
    return save(figure, path)


def _draw_column(axis: Axes, cells: Sequence[Cell], rows: Sequence[str]) -> None:
    for cell in cells:
        height = rows.index(cell.row)
        axis.axhline(height, color=_GUIDE, linewidth=0.8, zorder=0)
        if cell.paper is not None:
            axis.plot(cell.paper, height, "D", markersize=5, markerfacecolor="none", markeredgecolor=_PAPER)
        if cell.low is not None and cell.high is not None:
            axis.hlines(height, cell.low, cell.high, color=_MEASURED, linewidth=2.2)
        if cell.measured is not None:
            axis.plot(cell.measured, height, "o", markersize=4.5, color=_MEASURED)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.12)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _add_legend(figure: Figure, cells: Sequence[Cell]) -> None:
    scales = ", ".join(dict.fromkeys(cell.scale for cell in cells))
    measured = Line2D([], [], marker="o", markersize=4.5, color=_MEASURED, label=f"measured ({scales}), 95 % interval")
    paper = Line2D([], [], marker="D", markersize=5, color=_PAPER, markerfacecolor="none", linestyle="", label="paper")
    figure.legend(handles=[measured, paper], loc="outside lower center", ncols=2, fontsize=8, frameon=False)
