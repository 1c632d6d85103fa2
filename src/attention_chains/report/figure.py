"""Pictures of maps: one row per image and word, one column per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import binary_erosion

IMAGE, MASK = "image", "mask"
COLOUR_MAP = "inferno"
_PANEL = 1.25  # inches
_LARGEST_FILE = 1_000_000  # bytes
_RESOLUTIONS = (160, 130, 100, 75, 50)  # dots per inch, tried in turn
_OUTLINE = (255, 255, 255)


@dataclass(frozen=True)
class PanelRow:
    """What one row of panels shows.

    Attributes
    ----------
    image : (H, W, 3) uint8 array
    maps : mapping of column label to (h, w) float array
        Scaled to their own minimum and maximum; any resolution and range.
    mask : (H, W) bool array, optional
        The truth: its own column, and an outline over the maps. Without it the mask column stays empty.
    word : str
        Written below the image.
    """

    image: np.ndarray
    maps: Mapping[str, np.ndarray]
    mask: np.ndarray | None = None
    word: str = ""

    def picture(self, column: str) -> np.ndarray | None:
        """Panel of one column, (h, w, 3) uint8; None where the row has nothing to show."""
        if column == IMAGE:
            return self.image
        if column == MASK:
            return None if self.mask is None else np.repeat(self.mask[..., None], 3, axis=-1).astype(np.uint8) * 255
        if column not in self.maps:
            return None
        size = self.image.shape[:2]
        coloured = nearest(colour(self.maps[column]), size)
        return coloured if self.mask is None else outline(coloured, self.mask)


def draw_panels(rows: Sequence[PanelRow], columns: Sequence[str], path: Path, blocks: int = 1) -> Path:
    """Draw a grid of panels into a PNG below 1 MB.

    Parameters
    ----------
    rows : sequence of PanelRow
    columns : sequence of str
        "image", "mask" or labels of maps, left to right.
    path : Path
        File to write; its folder is made if it is not there.
    blocks : int
        Blocks of rows side by side, each with all columns: two keep a dozen rows compact.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        Without rows, or when a column is shown by none of them.
    """
    _check_shown(rows, columns)
    depth = -(-len(rows) // blocks)
    gaps = blocks - 1
    ratios = ([1.0] * len(columns) + [0.25]) * gaps + [1.0] * len(columns)
    figure = Figure(figsize=(_PANEL * sum(ratios), _PANEL * depth * 1.13 + 0.25), layout="none")
    axes = figure.subplots(depth, len(ratios), squeeze=False, gridspec_kw={"width_ratios": ratios})
    figure.subplots_adjust(
        left=0.005, right=0.995, top=1 - 0.25 / figure.get_figheight(), bottom=0.02, wspace=0.04, hspace=0.17
    )
    for axis in axes.flat:
        axis.axis("off")
    for position, row in enumerate(rows):
        block, line = divmod(position, depth)
        start = block * (len(columns) + 1)
        _draw_row(axes[line, start : start + len(columns)], row, columns, titled=line == 0)
    return save(figure, path)


def colour(values: np.ndarray) -> np.ndarray:
    """Min-max scale a map and colour it: (h, w) floats -> (h, w, 3) uint8; a constant map gets the lowest colour."""
    values = np.asarray(values, dtype=np.float64)
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return colormaps[COLOUR_MAP](scaled, bytes=True)[..., :3]


def nearest(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, ...) to `size` by repeating pixels."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, picture.shape[:2], strict=True))
    return picture[rows[:, None], columns]


def outline(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the inner edge of a mask (H, W) bool into a picture (H, W, 3) uint8, white, about 1.5 % of the side wide."""
    width = max(1, round(min(mask.shape) * 0.015))
    edge = mask & ~binary_erosion(mask, iterations=width, border_value=1)
    return np.where(edge[..., None], np.uint8(_OUTLINE), picture)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG below 1 MB, at the highest resolution that fits; the same figure gives the same bytes.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for resolution in _RESOLUTIONS:
        figure.savefig(path, dpi=resolution, facecolor="white", metadata={"Software": None})
        if path.stat().st_size < _LARGEST_FILE:
            break
    return path


def _draw_row(axes: np.ndarray, row: PanelRow, columns: Sequence[str], titled: bool) -> None:
    for axis, column in zip(axes, columns, strict=True):
        if titled:
            axis.set_title(column, fontsize=7.5, pad=3)
        picture = row.picture(column)
        if picture is not None:
            axis.imshow(picture, interpolation="antialiased" if column == IMAGE else "nearest", aspect="auto")
        if column == IMAGE:
            _write_word(axis, row.word)


def _write_word(axis: Axes, word: str) -> None:
    axis.text(0.5, -0.03, word, transform=axis.transAxes, ha="center", va="top", fontsize=7.5, style="italic")


def _check_shown(rows: Sequence[PanelRow], columns: Sequence[str]) -> None:
    if not rows:
        raise ValueError("A figure needs at least one row of panels, got none; run the task on some images first.")
    for column in columns:
        if all(row.picture(column) is None for row in rows):
            known = ", ".join([IMAGE, MASK, *rows[0].maps])
            raise ValueError(f"No row of the figure has a column {column!r}; choose from: {known}.")
