"""Generated images side by side: a column for each method, a row for each sample (Figures 5 and 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from attention_chains.config.errors import ConfigError
from attention_chains.methods.errors import MethodError
from attention_chains.records import RecordError
from attention_chains.report.experiment import caption_of_scale
from attention_chains.report.figure import save
from attention_chains.report.measurement import Run
from attention_chains.report.reading import REQUIRED, read_yaml, refuse_twice
from attention_chains.report.table import write_texts
from attention_chains.tasks.pictures import picture_path

TASK = "generation"
_PANEL, _GAP, _TITLE = 1.3, 0.25, 0.3  # inches; the gap is between blocks, in panels


@dataclass
class Column:
    """One column: as its heading has it, and the label of the method in the records."""

    label: str = REQUIRED
    method: str = REQUIRED


@dataclass
class GridDefinition:
    """A figure of generated images: the content of grid.yaml, checked.

    Attributes
    ----------
    title : str
    columns : list of Column
    samples : int
        The first so many of a run, by sorted id.
    blocks : int
        Blocks of rows side by side, each with all columns.
    notes : list of str
        Sentences printed below the figure.
    """

    title: str = REQUIRED
    columns: list[Column] = REQUIRED
    samples: int = REQUIRED
    blocks: int = 1
    notes: list[str] = field(default_factory=list)


def read_grid(path: Path) -> GridDefinition:
    """Read and check one grid.yaml.

    Raises
    ------
    ConfigError
        When the file is missing or is not YAML, or a key, a type or a column in it is wrong.
    """
    definition = read_yaml(path, GridDefinition)
    refuse_twice([column.label for column in definition.columns], "columns", path)
    if not definition.columns or definition.samples < 1 or definition.blocks < 1:
        raise ConfigError(f"{path}: columns, samples and blocks are at least one each; correct it.")
    return definition


def draw_images(columns: Mapping[str, str], samples: int, runs: Sequence[Run], path: Path, blocks: int = 1) -> Path:
    """Draw what the methods made of the first samples into a PNG below 1 MB.

    Parameters
    ----------
    columns : mapping of str to str
        Heading of each column, and the method's label in the records.
    samples : int
        Number of rows; fewer where the run is shorter.
    runs : sequence of Run
        Each with its folder; the first that holds a method is drawn.
    path : Path
        File to write; its folder is made if it is not there.
    blocks : int
        Blocks of rows side by side.

    Raises
    ------
    ValueError
        When no run holds a method.
    RecordError
        When an image of a run is missing or broken.
    """
    images = {heading: _images(method, samples, runs) for heading, method in columns.items()}
    rows = min(len(found) for found in images.values())
    depth, across = -(-rows // blocks), len(columns)
    ratios = ([1.0] * across + [_GAP]) * (blocks - 1) + [1.0] * across
    figure = Figure(figsize=(_PANEL * sum(ratios), _PANEL * depth + _TITLE), layout="none")
    axes = figure.subplots(depth, len(ratios), squeeze=False, gridspec_kw={"width_ratios": ratios})
    top = 1 - _TITLE / figure.get_figheight()
    figure.subplots_adjust(left=0.005, right=0.995, top=top, bottom=0.005, wspace=0.04, hspace=0.04)
    for axis in axes.flat:
        axis.axis("off")
    for position in range(rows):
        block, line = divmod(position, depth)
        for column, (heading, found) in enumerate(images.items()):
            _draw(axes[line, block * (across + 1) + column], found[position], heading if line == 0 else "")
    return save(figure, path)


def _draw(axis: Axes, image: np.ndarray, heading: str) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_title(heading, fontsize=8, pad=3)


def _images(method: str, samples: int, runs: Sequence[Run]) -> list[np.ndarray]:
    """The first images of a method, (H, W, 3) uint8 each."""
    held = [run for run in runs if run.task == TASK and run.folder and method in run.records[0]["stats"]]
    if not held:
        raise MethodError(f"No run holds images of method '{method}', which the picture shows: run it, too.")
    ids = sorted(record["id"] for record in held[0].records)[:samples]
    return [_read(picture_path(held[0].folder, method, name)) for name in ids]


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(
            f"{path} is not there or broken: copy the run's images from the machine that made them, or generate again "
            "in another folder (out=<folder>)."
        ) from error


def render_grid(
    name: str,
    definition: GridDefinition,
    runs: Sequence[Run],
    results: Path,
    scale: str,
    protocol: str,
    measured_on: str,
) -> list[Path]:
    """Write results/<name>/<scale>/{figure.png, figure.md}; arguments as in `Experiment.render`.

    Raises
    ------
    ValueError, RecordError
        See `draw_images`.
    OSError
        When the files cannot be written.
    """
    folder = results / name / scale
    columns = {column.label: column.method for column in definition.columns}
    picture = draw_images(columns, definition.samples, runs, folder / "figure.png", definition.blocks)
    named = ", ".join(f"`{run.name}`" for run in runs)
    parts = [
        f"# {definition.title}",
        f"Generated: {measured_on}; scale `{scale}`. The images of a row start from the same noise.",
        f"Protocol `{protocol}`. Runs: {named}.",
        caption_of_scale(scale),
        f"![figure]({picture.name})",
        *(["## Notes\n\n" + "\n".join(f"- {note}" for note in definition.notes)] if definition.notes else []),
    ]
    return [picture, *write_texts(folder, {"figure.md": "\n\n".join(parts) + "\n"})]
