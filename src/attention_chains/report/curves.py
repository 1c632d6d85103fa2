"""Figures of curves with confidence bands: accuracy while ever more patches are masked (Figures 7, 8 and 9)."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from io import StringIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attention_chains.config.errors import ConfigError
from attention_chains.metrics.masking import curve
from attention_chains.report.bootstrap import LEVEL, RESAMPLES, resampled_sums
from attention_chains.report.errors import ReportError
from attention_chains.report.experiment import caption_of_scale
from attention_chains.report.figure import save
from attention_chains.report.measurement import Measurement, Run, collect
from attention_chains.report.reading import REQUIRED, read_yaml, refuse_twice
from attention_chains.report.table import escape, markdown_table, number, span, write_texts

TASK = "masking"
# Okabe and Ito's colours, which differ for the colour-blind too; markers and dashes tell lines apart in grey
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1))),
    ("#56B4E9", "P", (0, (3, 1, 1, 1))),
    ("#000000", "X", (0, (1, 1))),
)
_COLUMNS = 4  # panels side by side


class Axis(Enum):
    """What a figure has from left to right."""

    fraction = "share of the patches masked"
    blocks = "masked blocks, from the input side"


@dataclass
class Line:
    """One line of every panel.

    Attributes
    ----------
    label : str
        As the legend has it.
    method : str
        Label of the method in the records. Against blocks, "{x}" stands for their number: a point for each such label.
    """

    label: str = REQUIRED
    method: str = REQUIRED


@dataclass
class FigureDefinition:
    """A figure of the paper: the content of figure.yaml, checked.

    Attributes
    ----------
    title : str
    axis : Axis
        "fraction": accuracy over clean accuracy at every fraction; "blocks": the area under that curve.
    lines : list of Line
    notes : list of str
        Sentences printed below the figure.
    """

    title: str = REQUIRED
    axis: Axis = REQUIRED
    lines: list[Line] = REQUIRED
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """One line of one panel.

    Attributes
    ----------
    model, label : str
        Panel and line.
    x, y, low, high : (points,) arrays
        The line and the ends of its 95 % band; NaN where there is none.
    n : int
        Number of images.
    """

    model: str
    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def read_figure(path: Path) -> FigureDefinition:
    """Read and check one figure.yaml.

    Raises
    ------
    ConfigError
        When the file is missing or is not YAML, or a key, a type or a line in it is wrong.
    """
    definition = read_yaml(path, FigureDefinition)
    refuse_twice([line.label for line in definition.lines], "lines", path)
    if not 0 < len(definition.lines) <= len(STYLES):
        raise ConfigError(f"{path}: lines has {len(definition.lines)} entries; give 1 to {len(STYLES)}.")
    for line in definition.lines:
        if (definition.axis is Axis.blocks) != ("{x}" in line.method):
            raise ConfigError(
                f"{path}: line {line.label!r} names method {line.method!r}; write {{x}} for the number of blocks if "
                "axis is blocks, and only then."
            )
    return definition


def read_curves(definition: FigureDefinition, runs: Sequence[Run]) -> list[Curve]:
    """Every line that the runs hold, panel by panel; the seeds of a model are averaged.

    Raises
    ------
    ReportError
        See `measurement.collect`.
    """
    models = list(dict.fromkeys(run.model for run in runs if run.task == TASK))
    read = _against_blocks if definition.axis is Axis.blocks else _against_fraction
    found = [read(line, model, runs) for model in models for line in definition.lines]
    return [each for each in found if each is not None]


def _against_fraction(line: Line, model: str, runs: Sequence[Run]) -> Curve | None:
    measured = collect(runs, TASK, line.method, [model])
    if measured is None:
        return None
    draws = _relative(resampled_sums(measured.per_image))  # (B, fractions)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    y = _relative(measured.per_image.sum(axis=0))
    return Curve(model, line.label, np.linspace(0, 1, len(y)), y, low, high, measured.n)


def _relative(sums: np.ndarray) -> np.ndarray:
    """Accuracy over clean accuracy, a mean over the runs: (..., runs, fractions) -> (..., fractions)."""
    return curve(sums).mean(axis=-2)


def _against_blocks(line: Line, model: str, runs: Sequence[Run]) -> Curve | None:
    points = {x: measured for x, label in _labels(line, runs) if (measured := collect(runs, TASK, label, [model]))}
    if not points:
        return None
    areas = [points[x].metric("AUC") for x in sorted(points)]
    y, low, high = (np.array([getattr(area, name) for area in areas]) for name in ("value", "low", "high"))
    return Curve(model, line.label, np.array(sorted(points)), y, low, high, _images(points.values()))


def _labels(line: Line, runs: Sequence[Run]) -> list[tuple[int, str]]:
    """Labels of the records that a line stands for, with their number of blocks."""
    pattern = re.escape(line.method).replace(re.escape("{x}"), r"(\d+)")
    known = dict.fromkeys(label for run in runs if run.task == TASK for label in run.records[0]["stats"])
    return [(int(match.group(1)), label) for label in known if (match := re.fullmatch(pattern, label))]


def _images(measured: Sequence[Measurement]) -> int:
    return next(iter(measured)).n


def render_figure(
    name: str,
    definition: FigureDefinition,
    runs: Sequence[Run],
    results: Path,
    scale: str,
    protocol: str,
    measured_on: str,
) -> tuple[list[Curve], list[Path]]:
    """Write results/<name>/<scale>/{figure.png, curves.csv, figure.md}; arguments as in `Experiment.render`.

    Raises
    ------
    ReportError
        When the runs hold none of the lines; see also `measurement.collect`.
    OSError
        When the files cannot be written.
    """
    curves = read_curves(definition, runs)
    if not curves:
        raise ReportError(f"No run holds a line of {name}; run the experiment first.")
    folder = results / name / scale
    texts = {
        "curves.csv": _as_csv(curves, definition),
        "figure.md": _markdown(definition, curves, runs, scale, protocol, measured_on),
    }
    paths = write_texts(folder, texts)
    return curves, [draw_curves(curves, definition, folder / "figure.png", scale), *paths]


def draw_curves(curves: Sequence[Curve], definition: FigureDefinition, path: Path, scale: str) -> Path:
    """Draw a panel for each model with all its lines and bands into a PNG."""
    models = list(dict.fromkeys(each.model for each in curves))
    across = min(len(models), _COLUMNS)
    down = -(-len(models) // across)
    figure = Figure(
        figsize=(max(2.9 * across, 5.6), 2.6 * down + (0.9 if down * across > 1 else 1.6)), layout="constrained"
    )
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axis, model in zip(panels.flat, models, strict=False):
        _draw_panel(axis, [each for each in curves if each.model == model], definition)
        axis.set_title(model, fontsize=9)
    for axis in panels.flat[len(models) :]:
        axis.set_visible(False)
    _label_axes(panels, len(models), definition)
    lines = {line.get_label(): line for axis in panels.flat for line in axis.get_lines()}
    shown = [lines[line.label] for line in definition.lines if line.label in lines]
    columns = min(len(shown), 3 if across < 3 else 7)
    figure.legend(handles=shown, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    counts = " or ".join(str(n) for n in sorted({each.n for each in curves}))
    figure.suptitle(f"{definition.title} ({scale}, {counts} images)", fontsize=10)
    return save(figure, path)


def _draw_panel(axis: Axes, curves: Sequence[Curve], definition: FigureDefinition) -> None:
    labels = [line.label for line in definition.lines]
    for each in curves:
        colour, marker, dash = STYLES[labels.index(each.label)]
        every = max(1, len(each.x) // 7)
        look = dict(color=colour, linestyle=dash, marker=marker, markersize=3.5, markevery=every, linewidth=1.4)
        axis.plot(each.x, each.y, label=each.label, **look)
        axis.fill_between(each.x, each.low, each.high, color=colour, alpha=0.15, linewidth=0)
    if definition.axis is Axis.blocks:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=7.5)
    axis.tick_params(labelbottom=True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _label_axes(panels: np.ndarray, models: int, definition: FigureDefinition) -> None:
    """Below the lowest panel of each column, and left of each row."""
    across = panels.shape[1]
    for axis in panels.flat[max(0, models - across) : models]:
        axis.set_xlabel(definition.axis.value, fontsize=8.5, visible=True)  # an empty panel may lie below
    for axis in panels[:, 0]:
        area = definition.axis is Axis.blocks
        axis.set_ylabel("AUC (lower is better)" if area else "accuracy / clean accuracy", fontsize=8.5)


def _markdown(
    definition: FigureDefinition, curves: Sequence[Curve], runs: Sequence[Run], scale: str, protocol: str, on: str
) -> str:
    named = ", ".join(f"`{run.name}`" for run in runs)
    counts = " or ".join(str(n) for n in sorted({each.n for each in curves}))
    parts = [
        f"# {definition.title}",
        f"Measured: {on}; scale `{scale}`, {counts} images.",
        f"Protocol `{protocol}`. Runs: {named}.",
        f"Bands: 95 % percentile bootstrap over images, {RESAMPLES} resamples. Numbers: [curves.csv](curves.csv).",
        caption_of_scale(scale),
        "![figure](figure.png)",
        _areas(definition, curves, runs),
    ]
    if definition.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in definition.notes))
    return "\n\n".join(parts) + "\n"


def _areas(definition: FigureDefinition, curves: Sequence[Curve], runs: Sequence[Run]) -> str:
    """The area of every line, as a table: by model, or by number of blocks."""
    if definition.axis is Axis.blocks:
        header = ["", *(f"{x} blocks" if x != 1 else "1 block" for x in sorted({int(x) for c in curves for x in c.x}))]
        rows = [
            [f"{escape(c.label)} ({c.model})", *(f"{number(*v, unit='')}" for v in zip(c.y, strict=True))]
            for c in curves
        ]
        return f"## AUC (lower is better)\n\n{markdown_table(header, rows)}"
    models = list(dict.fromkeys(each.model for each in curves))
    rows = [[escape(line.label), *(_area(line, model, runs) for model in models)] for line in definition.lines]
    return f"## AUC (lower is better), 95 % interval\n\n{markdown_table(['', *models], rows)}"


def _area(line: Line, model: str, runs: Sequence[Run]) -> str:
    measured = collect(runs, TASK, line.method, [model])
    if measured is None:
        return ""
    area = measured.metric("AUC")
    return f"{number(area.value, unit='')} {span(area.low, area.high, unit='')}"


def _as_csv(curves: Sequence[Curve], definition: FigureDefinition) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    y = "auc" if definition.axis is Axis.blocks else "relative_accuracy"
    writer.writerow(["model", "line", definition.axis.name, y, "low", "high", "n"])
    for each in curves:
        for point in zip(each.x, each.y, each.low, each.high, strict=True):
            writer.writerow([each.model, each.label, f"{point[0]:g}", *(f"{value:.6f}" for value in point[1:]), each.n])
    return text.getvalue()
