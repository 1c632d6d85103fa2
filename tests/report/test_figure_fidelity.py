"""Pictures are written, are small, show what they were given, and are the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_chains.report.figure import IMAGE, MASK, PanelRow, colour, draw_panels, nearest, outline


def row(seed: int) -> PanelRow:
    rng = np.random.default_rng(seed)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    return PanelRow(rng.integers(0, 256, (64, 64, 3), np.uint8), {"m": rng.random((16, 16))}, mask, "word")


def test_the_same_rows_give_the_same_small_file(tmp_path: Path) -> None:
    first, second = (draw_panels([row(0), row(1)], [IMAGE, "m", MASK], tmp_path / n) for n in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size < 1_000_000
    assert np.asarray(Image.open(first)).std() > 20


def test_another_map_gives_another_picture(tmp_path: Path) -> None:
    one, other = (draw_panels([row(i)], ["m"], tmp_path / f"{i}.png") for i in (0, 1))
    assert one.read_bytes() != other.read_bytes()


def test_colours_rise_with_the_map_and_a_constant_map_has_one() -> None:
    brightness = colour(np.linspace(0, 1, 9).reshape(3, 3)).sum(-1).ravel()
    assert (np.diff(brightness.astype(int)) > 0).all()
    assert len(np.unique(colour(np.full((4, 4), 3.0)).reshape(-1, 3), axis=0)) == 1


def test_nearest_repeats_pixels() -> None:
    assert (nearest(np.arange(4).reshape(2, 2), (4, 4)) == np.kron(np.arange(4).reshape(2, 2), np.ones((2, 2)))).all()


def test_the_outline_is_the_edge_of_the_mask() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    drawn = outline(np.zeros((64, 64, 3), np.uint8), mask)[..., 0] == 255
    assert drawn[16, 16:48].all() and not drawn[20:44, 20:44].any() and not drawn[~mask].any()


def test_a_column_that_no_row_shows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        draw_panels([row(0)], ["other"], tmp_path / "x.png")
