"""Figures of masking show the relative accuracy of the records with its bootstrap band, and say it in numbers too."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from attention_chains.config import ConfigError
from attention_chains.report.curves import STYLES, read_curves, read_figure, render_figure

FRACTIONS = 21
LASTING = {"random": 0.8, "center-column": 0.5, "column-sum": 0.35, "cls": 0.42, "tokenrank": 0.25}
LASTING |= {"tokenrank-converged": 0.26}


def render(name: str, experiments: Path, runs, results: Path):
    definition = read_figure(experiments / name / "figure.yaml")
    return render_figure(name, definition, runs, results, "mini", "masking-2", "models on data")


def test_a_line_is_accuracy_over_clean_accuracy_inside_its_band(experiments: Path, masking_run) -> None:
    run = masking_run("vit", LASTING)
    curves = {each.label: each for each in read_curves(read_figure(experiments / "fig7/figure.yaml"), [run])}
    accuracy = np.mean([record["stats"]["cls"]["correct"] for record in run.records], axis=0)
    cls = curves["CLS Token"]
    assert cls.y == pytest.approx(accuracy / accuracy[0]) and cls.x == pytest.approx(np.linspace(0, 1, FRACTIONS))
    assert ((cls.low <= cls.y) & (cls.y <= cls.high)).all() and (cls.high - cls.low).max() > 0.05
    assert cls.low[0] == cls.high[0] == 1 and cls.n == len(run.records)


def test_the_seeds_of_a_model_are_averaged(experiments: Path, masking_run) -> None:
    runs = [masking_run("vit", LASTING, seed=seed) for seed in (0, 1)]
    definition = read_figure(experiments / "fig7/figure.yaml")
    both, *each = (read_curves(definition, chosen)[0].y for chosen in (runs, runs[:1], runs[1:]))
    assert both == pytest.approx(np.mean(each, axis=0))


def test_blocks_are_found_by_the_labels_of_the_records_in_the_order_of_their_number(
    experiments: Path, masking_run
) -> None:
    lasting = {f"{label}-{x}": 1 - 0.07 * x for label in ("tokenrank", "cls") for x in (10, 2, 1)}
    curves = read_curves(read_figure(experiments / "fig8/figure.yaml"), [masking_run("dinov2", lasting)])
    assert [each.label for each in curves] == ["CLS Token", "TokenRank"]  # the others were not run
    assert curves[1].x.tolist() == [1, 2, 10] and (np.diff(curves[1].y) < 0).all()
    assert ((curves[1].low < curves[1].y) & (curves[1].y < curves[1].high)).all()


@pytest.mark.parametrize("models", [1, 3, 5])
def test_a_figure_is_a_small_picture_with_its_numbers_beside_it(
    models: int, experiments: Path, tmp_path: Path, masking_run
) -> None:
    runs = [masking_run(f"model{i}", LASTING) for i in range(models)]
    curves, paths = render("fig7", experiments, runs, tmp_path)
    assert {path.name for path in paths} == {"figure.png", "figure.md", "curves.csv"}
    rows = list(csv.DictReader((tmp_path / "fig7/mini/curves.csv").open()))
    assert len(rows) == models * 6 * FRACTIONS == sum(len(each.x) for each in curves)
    assert float(rows[3]["relative_accuracy"]) == pytest.approx(curves[0].y[3], abs=1e-6)
    picture = tmp_path / "fig7/mini/figure.png"
    assert picture.stat().st_size < 1_000_000 and np.asarray(Image.open(picture)).std() > 10
    assert "not to be compared cell by cell" in (tmp_path / "fig7/mini/figure.md").read_text()


def test_nothing_of_a_figure_is_cut_off_or_written_over(
    experiments: Path, tmp_path: Path, monkeypatch, masking_run
) -> None:
    drawn = []
    monkeypatch.setattr("attention_chains.report.curves.save", lambda figure, path: drawn.append(figure) or path)
    for name, runs in {
        "fig7": [masking_run(f"model{i}", LASTING) for i in range(6)],
        "fig8": [masking_run("dinov2", {f"{k}-{x}": v for k, v in LASTING.items() for x in range(1, 7)})],
    }.items():
        render(name, experiments, runs, tmp_path)
        figure = drawn.pop()
        FigureCanvasAgg(figure).draw()
        shown = [axis for axis in figure.axes if axis.get_visible()]
        texts = [figure._suptitle, *(axis.xaxis.label for axis in shown), *(axis.yaxis.label for axis in shown)]
        texts = [text for text in texts if text.get_text()]
        assert all(text.get_visible() for text in texts)
        boxes = [text.get_window_extent() for text in texts]
        legend = figure.legends[0].get_window_extent()
        for box in [*boxes, legend]:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(legend) for box in boxes)


def test_the_same_records_give_the_same_bytes(experiments: Path, tmp_path: Path, masking_run) -> None:
    run = masking_run("vit", LASTING)
    for name in ("a", "b"):
        render("fig7", experiments, [run], tmp_path / name)
    for file in ("figure.png", "figure.md", "curves.csv"):
        assert (tmp_path / "a/fig7/mini" / file).read_bytes() == (tmp_path / "b/fig7/mini" / file).read_bytes()


def test_every_line_has_a_look_of_its_own() -> None:
    for part in zip(*STYLES, strict=True):
        assert len(set(part)) == len(STYLES)


def test_runs_without_a_line_are_refused(experiments: Path, tmp_path: Path, masking_run) -> None:
    with pytest.raises(ValueError, match="No run holds a line of fig9"):
        render("fig9", experiments, [masking_run("vit", LASTING)], tmp_path)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("[{label: a, method: 'm-{x}'}]", "write {x} for the number of blocks if axis is blocks"),
        ("[]", "lines has 0 entries; give 1 to 7."),
        ("[{label: a, method: m}, {label: a, method: k}]", "'a' twice"),
        ("[{label: a}]", "is missing"),
    ],
)
def test_a_wrong_figure_yaml_is_one_sentence(tmp_path: Path, lines: str, sentence: str) -> None:
    path = tmp_path / "figure.yaml"
    path.write_text(f"title: x\naxis: fraction\nlines: {lines}")
    with pytest.raises(ConfigError) as caught:
        read_figure(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
