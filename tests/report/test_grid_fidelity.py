"""The picture of generated images: what each method made of the first samples, in its own column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_chains.config import ConfigError
from attention_chains.methods.errors import MethodError
from attention_chains.records import RecordError
from attention_chains.report.grid import Column, GridDefinition, draw_images, read_grid, render_grid
from attention_chains.report.measurement import Run

COLOURS = {"none": (220, 30, 30), "sag": (30, 200, 30), "sag-tokenrank": (40, 40, 230)}
HEADINGS = {"SD1.5": "none", "SAG": "sag", "SAG+TokenRank": "sag-tokenrank"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Six samples in any order; a method's images are of one colour, darker from sample to sample."""
    folder = tmp_path / "run"
    for label, colour in COLOURS.items():
        (folder / "images" / label).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((32, 32, 3), colour, np.float32) * (1 - 0.15 * i)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / label / f"{i:05d}.png")
    records = [{"index": i, "id": f"{i:05d}", "stats": {key: {} for key in COLOURS}} for i in (3, 0, 5, 1, 4, 2)]
    return Run("run", "generation", "sd15", 0, records, folder)


def panels(path: Path, rows: int, columns: int) -> np.ndarray:
    """Colour in the middle of each panel, (rows, columns, 3)."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    title = height * 0.3 / (1.3 * rows + 0.3)
    ys = title + (np.arange(rows) + 0.5) * (height - title) / rows
    xs = (np.arange(columns) + 0.5) * width / columns
    return picture[ys.astype(int)[:, None], xs.astype(int)]


def test_a_column_is_a_method_and_a_row_a_sample_by_sorted_id(run: Run, tmp_path: Path) -> None:
    found = panels(draw_images(HEADINGS, 4, [run], tmp_path / "grid.png"), 4, 3)
    expected = [[[int(c * (1 - 0.15 * i)) for c in COLOURS[label]] for label in HEADINGS.values()] for i in range(4)]
    np.testing.assert_allclose(found, expected, atol=3)


def test_blocks_stand_side_by_side_and_a_short_run_has_fewer_rows(run: Run, tmp_path: Path) -> None:
    path = draw_images({"SAG": "sag"}, 99, [run], tmp_path / "grid.png", blocks=2)
    width, height = Image.open(path).size
    assert width / height == pytest.approx(1.3 * 2.25 / (3 * 1.3 + 0.3), rel=0.02)  # two columns, three rows


def test_a_figure_is_written_with_its_picture_and_says_what_it_shows(run: Run, tmp_path: Path) -> None:
    definition = GridDefinition("Figure 5", [Column("SD1.5", "none")], 2, 1, ["A note."])
    paths = render_grid("fig5", definition, [run], tmp_path, "mini", "generation-1 cfg=1", "sd15 on prompts")
    text = (tmp_path / "fig5/mini/figure.md").read_text()
    assert {path.name for path in paths} == {"figure.png", "figure.md"}
    assert all(
        part in text for part in ("`run`", "`generation-1 cfg=1`", "- A note.", "![figure](figure.png)", "**mini**")
    )


@pytest.mark.parametrize("content", [None, b"\x89PNG\r\n\x1a\ntorn"])
def test_a_missing_or_torn_image_says_what_to_do(run: Run, tmp_path: Path, content: bytes | None) -> None:
    path = run.folder / "images" / "sag" / "00001.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=r"00001\.png is not there or broken: copy the run's images"):
        draw_images(HEADINGS, 4, [run], tmp_path / "grid.png")


def test_a_method_that_no_run_holds_is_an_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="No run holds images of method 'other'"):
        draw_images({"Other": "other"}, 4, [run], tmp_path / "grid.png")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: t\nsamples: 2\ncolumns: []", "are at least one each"),
        ("title: t\nsamples: 0\ncolumns: [{label: a, method: b}]", "are at least one each"),
        ("title: t\nsamples: 2\ncolumns: [{label: a, method: b}, {label: a, method: c}]", "columns has 'a' twice"),
        ("title: t\nsample: 2", "'sample' is not a key; nearest: samples"),
    ],
)
def test_a_wrong_definition_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_grid(tmp_path / "grid.yaml")
