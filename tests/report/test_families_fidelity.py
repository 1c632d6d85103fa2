"""A table of model families: a cell is the mean over a family's models and seeds, in the metric's own direction."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attention_chains.report.definition import Tolerance, read_definition
from attention_chains.report.experiment import Experiment
from attention_chains.report.measurement import Run, collect

TABLES = ("table1", "table2", "table3", "table4", "table5", "table5_max", "table6", "table7", "table8")
LASTING = {"random": 0.8, "center-column": 0.5, "center-row": 0.5, "column-sum": 0.35, "cls": 0.42}
LASTING |= {"tokenrank": 0.25, "tokenrank-converged": 0.25}
MODELS = ["vit", "clip", "dinov1", "dinov2"]


def auc(run: Run, label: str) -> float:
    """By hand: trapezoid of accuracy over clean accuracy."""
    accuracy = np.mean([record["stats"][label]["correct"] for record in run.records], axis=0)
    return float(np.trapezoid(accuracy / accuracy[0], np.linspace(0, 1, len(accuracy))))


def render(name: str, experiments: Path, runs: list[Run], results: Path, models: list[str], scale: str = "mini"):
    return Experiment.read(experiments / name).render(runs, results, scale, "protocol-x", "models on data", models)


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_numbers_stand_in_the_order_that_the_table_claims(name: str, experiments: Path) -> None:
    definition = read_definition(experiments / name / "table.yaml")
    paper = {row.label: row.paper for row in definition.rows}
    assert definition.orderings
    for ordering in definition.orderings:
        numbers = [paper[row][ordering.column] for row in ordering.rows]
        lower = definition.metric_of(ordering.column).better == "lower"
        assert numbers == sorted(numbers, reverse=not lower), ordering


def test_a_cell_is_the_mean_over_the_models_of_its_family(experiments: Path, tmp_path: Path, masking_run) -> None:
    shift = {"vit": 0.0, "vit_l16": 0.2, "clip": 0.1}
    runs = [masking_run(model, {k: v + by for k, v in LASTING.items()}) for model, by in shift.items()]
    cells, _ = render("table4", experiments, runs, tmp_path, list(shift))
    found = {(cell.row, cell.column): cell for cell in cells}
    expected = np.mean([auc(run, "tokenrank") for run in runs[:2]])
    cell = found["TokenRank", "ViT"]
    assert cell.measured == pytest.approx(expected, abs=1e-12)
    assert cell.low < cell.measured < cell.high and (cell.unit, cell.metric, cell.runs) == ("", "AUC", 1)
    assert found["TokenRank", "CLIP"].measured == pytest.approx(auc(runs[2], "tokenrank"), abs=1e-12)
    assert found["TokenRank", "DINOv1"].measured is None


def test_a_family_that_lacks_one_of_its_models_is_not_measured(experiments: Path, tmp_path: Path, masking_run) -> None:
    cells, _ = render("table4", experiments, [masking_run("vit", LASTING)], tmp_path, ["vit", "vit_l16"])
    assert {cell.measured for cell in cells} == {None}
    assert "Nothing is measured." in (tmp_path / "table4/mini/table.md").read_text()


def test_seeds_give_the_deviation_of_the_family_mean(experiments: Path, tmp_path: Path, probing_run) -> None:
    truth = {"random-row": 0.5, "center-row": 0.6, "column-sum": 0.7, "cls": 0.8}
    runs = [
        probing_run(model, {**truth, "tokenrank": 0.7 + 0.05 * seed}, seed=seed)
        for seed in (0, 1, 2)
        for model in ("dinov1", "dinov1_480")
    ]
    cells, _ = render("table5", experiments, runs, tmp_path, ["dinov1", "dinov1_480"])
    cell = next(cell for cell in cells if (cell.row, cell.column) == ("TokenRank", "DINOv1"))
    of_run = [100 * np.mean([r["stats"]["tokenrank"]["correct"][1] for r in run.records]) for run in runs]
    of_seed = np.reshape(of_run, (3, 2)).mean(1)
    assert cell.measured == pytest.approx(of_seed.mean()) and cell.std == pytest.approx(np.std(of_seed, ddof=1))
    assert (cell.runs, cell.unit, cell.paper_std) == (3, "%", 2.50)
    assert "means over 3 runs with different seeds" in (tmp_path / "table5/mini/table.md").read_text()


def test_an_order_of_a_metric_that_is_better_when_lower_holds_when_the_first_is_lower(
    experiments, tmp_path, masking_run
) -> None:
    runs = [masking_run(model, LASTING) for model in MODELS]
    render("table4", experiments, runs, tmp_path, MODELS)
    text = (tmp_path / "table4/mini/table.md").read_text()
    order = "TokenRank < Column Sum < Center Token = CLS Token < Rand. Token"
    assert f"| AUC of ViT (lower is better) | {order} | 3 of 3 | **holds** |" in text
    assert (
        "Column Sum < CLS Token | 3 of 4" not in text and "Center Token < Column Sum | \N{MINUS SIGN}0.02 | +0." in text
    )
    assert text.count("**does not hold**") == 6  # CLIP and both DINO: in the summary, and in their own section
    rows = list(csv.DictReader((tmp_path / "table4/mini/differences.csv").open()))
    better = [row for row in rows if (row["first"], row["second"]) == ("TokenRank", "Column Sum")]
    assert len(better) == 4
    assert all(row["verdict"] == "holds" and float(row["high"]) < 0 and float(row["confidence"]) == 1 for row in better)


def test_a_step_that_is_a_tie_in_the_paper_decides_nothing(experiments: Path, tmp_path: Path, masking_run) -> None:
    for name, cls in (("a", 0.42), ("b", 0.62)):  # on either side of the centre
        render("table4", experiments, [masking_run("vit", {**LASTING, "cls": cls})], tmp_path / name, ["vit"])
        text = (tmp_path / name / "table4/mini/table.md").read_text()
        assert "3 of 3 | **holds**" in text and "equal in the paper" in text


def test_an_area_has_three_decimals_and_a_percentage_two(experiments: Path, tmp_path: Path, masking_run) -> None:
    run = masking_run("vit", LASTING)
    render("table4", experiments, [run], tmp_path, ["vit"])
    text = (tmp_path / "table4/mini/table.md").read_text()
    clean = 100 * np.mean([record["stats"]["cls"]["correct"][0] for record in run.records])
    assert f"| TokenRank | {auc(run, 'tokenrank'):.3f} (0.26) |  " not in text  # the other families have the paper's
    assert f"| TokenRank | {auc(run, 'tokenrank'):.3f} (0.26) | (0.46) | (0.44) | (0.64) |" in text
    assert (
        f"## Clean accuracy (%)\n\n|  | measured | 95 % interval | n |\n| :-- | --: | --: | --: |\n| ViT | {clean:.2f}"
        in text
    )
    assert "## ViT (AUC)" in text and "Not measured: CLIP, DINOv1, DINOv2." in text


@pytest.mark.parametrize(("scale", "said"), [("mini", "not to be compared cell by cell"), ("paper", "of the paper")])
def test_the_caption_says_what_the_scale_allows(
    scale: str, said: str, experiments: Path, tmp_path: Path, masking_run
) -> None:
    render("table4", experiments, [masking_run("vit", LASTING)], tmp_path, ["vit"], scale)
    text = (tmp_path / "table4" / scale / "table.md").read_text()
    assert said in text and f"**{scale}**" in text
    assert ("within 0.03 of the paper (reproduced)" in text) == (scale == "paper")
    assert read_definition(experiments / "table4/table.yaml").tolerance == Tolerance(0.03, 0.06)


def test_runs_of_another_task_or_model_are_passed_over(masking_run) -> None:
    vit, clip = masking_run("vit", LASTING), masking_run("clip", LASTING)
    assert collect([vit, clip], "masking", "cls", ["clip"]).models == ("clip",)
    assert collect([replace(vit, task="probing")], "masking", "cls") is None
    assert collect([vit], "masking", "no such label") is None


def test_a_family_of_models_with_different_seeds_is_refused(masking_run) -> None:
    runs = [masking_run("vit", LASTING, seed=0), masking_run("vit", LASTING, seed=1), masking_run("vit_l16", LASTING)]
    with pytest.raises(ValueError, match="was not run with the same seeds for vit, vit_l16"):
        collect(runs, "masking", "cls")


def test_a_family_of_models_of_different_depth_is_refused(probing_run) -> None:
    runs = [probing_run("a", {"m": [0.5, 0.5]}), probing_run("b", {"m": [0.5, 0.5, 0.5]})]
    with pytest.raises(ValueError, match="average only models of one depth"):
        collect(runs, "probing", "m")
