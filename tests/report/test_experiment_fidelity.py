"""Every table of experiments/ reads, agrees with the runs that fill it, and prints what was measured and no more."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from attention_chains.config import ConfigError
from attention_chains.metrics.segmentation import FIELDS, summarise
from attention_chains.report.definition import MiouKind, read_definition
from attention_chains.report.experiment import Experiment
from attention_chains.report.measurement import Run

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("table1", "table7", "table8")


def render(experiments: Path, name: str, records_by_run: dict, results: Path):
    runs = [
        Run(run, "segmentation", "flux", seed, records) for seed, (run, records) in enumerate(records_by_run.items())
    ]
    return Experiment.read(experiments / name).render(runs, results, "mini", "protocol-x", "a model on data")


def _experiment(name: str) -> str:
    return (ROOT / f"configs/experiment/{name}.yaml").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_every_method_of_a_table_is_run(name: str) -> None:
    files = ("_flux_rows", "_table1_diffseg")
    run = {label for file in files for label in yaml.safe_load(_experiment(file))["methods"]}
    assert set(Experiment.read(ROOT / "experiments" / name).methods) <= run


@pytest.mark.parametrize("name", TABLES)
def test_the_rows_marked_as_acc_over_2_minus_acc_are_just_those_that_obey_it(name: str) -> None:
    for row in read_definition(ROOT / "experiments" / name / "table.yaml").rows:
        if row.paper.get("mIoU") is None:
            continue
        accuracy = row.paper["Acc"] / 100
        off = abs(100 * accuracy / (2 - accuracy) - row.paper["mIoU"])
        assert (off <= 0.011) == (row.miou_kind is MiouKind.acc_over_2_minus_acc), row.label


def test_table_1_compares_such_a_row_with_miou_ca(experiments: Path, records, tmp_path: Path) -> None:
    cells, _ = render(experiments, "table1", {"run": records}, tmp_path)
    concept = {cell.column: cell for cell in cells if cell.row == "Concept Attention"}
    assert concept["mIoU"].paper is None and concept["mIoU_ca"].paper == 71.04
    assert "Acc/(2 - Acc)" in (tmp_path / "table1/mini/table.md").read_text()


def test_measured_numbers_are_the_summary_of_the_records(experiments: Path, records, tmp_path: Path) -> None:
    cells, _ = render(experiments, "table7", {"run": records}, tmp_path)
    stats = np.array([[record["stats"]["outgoing-n2"][field] for field in FIELDS] for record in records])
    expected = summarise(stats.sum(0), len(records))
    found = {cell.column: cell for cell in cells if cell.row == "outgoing (n=2)*"}
    for column, cell in found.items():
        assert cell.measured == pytest.approx(float(expected[column]), abs=1e-12)
        assert cell.low <= cell.measured <= cell.high and cell.n == len(records)
    assert found["Acc"].difference == pytest.approx(found["Acc"].measured - 84.12)


def test_the_order_of_the_records_changes_no_byte(experiments: Path, records, tmp_path: Path) -> None:
    render(experiments, "table7", {"run": records}, tmp_path / "a")
    render(experiments, "table7", {"run": records[::-1]}, tmp_path / "b")
    for name in ("table.md", "table.csv", "differences.csv", "plot.png"):
        assert (tmp_path / "a/table7/mini" / name).read_bytes() == (tmp_path / "b/table7/mini" / name).read_bytes()


def test_the_csv_holds_every_cell_and_leaves_empty_what_was_not_measured(experiments, records, tmp_path) -> None:
    cells, _ = render(experiments, "table1", {"run": records}, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table1/mini/table.csv").open()))
    assert len(rows) == len(cells)
    for cell, row in zip(cells, rows, strict=True):
        assert (row["row"], row["column"]) == (cell.row, cell.column)
        if cell.measured is None:
            assert row["measured"] == ""
        else:
            assert float(row["measured"]) == pytest.approx(cell.measured, abs=1e-6)
    assert {row["measured"] for row in rows if row["row"] == "LRP"} == {""}


def test_the_table_says_what_it_is(experiments: Path, records, tmp_path: Path) -> None:
    render(experiments, "table7", {"run": records}, tmp_path)
    text = (tmp_path / "table7/mini/table.md").read_text()
    for said in (
        "a model on data",
        "`mini`",
        "12 images",
        "0 skipped",
        "`protocol-x`",
        "not to be compared cell by cell",
    ):
        assert said in text


def test_a_paired_comparison_tells_which_method_is_better(experiments: Path, records, tmp_path: Path) -> None:
    render(experiments, "table7", {"run": records}, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table7/mini/differences.csv").open()))
    better = [row for row in rows if row["first"] == "outgoing (n=2)*" and row["second"] == "row-select (n=1)"]
    assert better and all(float(row["low"]) > 0 for row in better)


def test_an_order_that_the_measurement_contradicts_is_said_not_to_hold(experiments, records, tmp_path) -> None:
    for record in records:  # the paper's best method becomes the worst
        record["stats"]["outgoing-n2"] = {"tn": 0, "fp": 3500, "fn": 596, "tp": 0, "ap": 0.1, "fg_ap": 0.1}
    render(experiments, "table7", {"run": records}, tmp_path)
    assert "In the measurement this order: **does not hold**" in (tmp_path / "table7/mini/table.md").read_text()


def test_several_seeds_give_mean_and_standard_deviation(experiments: Path, records, tmp_path: Path) -> None:
    from copy import deepcopy

    other = deepcopy(records)
    for record in other:
        for stats in record["stats"].values():
            stats["tn"], stats["fp"] = stats["tn"] - 40, stats["fp"] + 40
    cells, _ = render(experiments, "table8", {"seed0": records, "seed1": other}, tmp_path)
    ours = next(cell for cell in cells if cell.row == "Ours" and cell.column == "Acc")
    per_run = [100 * np.mean([_accuracy(r["stats"]["outgoing-n2"]) for r in run]) for run in (records, other)]
    assert ours.measured == pytest.approx(np.mean(per_run)) and ours.runs == 2
    assert ours.std == pytest.approx(np.std(per_run, ddof=1)) and ours.paper_std == 0.03


def _accuracy(stats: dict[str, float]) -> float:
    return (stats["tn"] + stats["tp"]) / sum(stats[key] for key in ("tn", "fp", "fn", "tp"))


def test_repeats_on_different_images_are_refused(experiments: Path, records, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Different images"):
        render(experiments, "table8", {"a": records, "b": records[:-1]}, tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("titel: x", "'titel' is not a key; nearest: title"),
        ("title: x\ncolumns: [Acc]", "'rows' is missing"),
        ("title: x\ncolumns: [Accc]\nrows: []", "'Accc', which is not a metric; nearest: Acc"),
        ("title: x\ncolumns: [Acc]\nrows: [{label: a}, {label: a}]", "'a' twice"),
        ("title: [", "is not valid YAML"),
        ("title: x\nrows: []", "the table has no column; give columns, or metric and families."),
        ("title: x\ntask: weather\nrows: []", "There are no metrics of a task 'weather'"),
        ("title: x\nrows: []\nfamilies: {A: [a]}", "a table of families has one metric and no columns"),
        ("title: x\nrows: []\nmetric: AUC\nfamilies: {A: [a]}", "'AUC', which is not a metric"),
        ("title: x\ntask: masking\nrows: []\nmetric: AUC\nfamilies: {A: [a], B: [a]}", "families has 'a' twice"),
        (
            "title: x\ntask: masking\nmetric: AUC\nfamilies: {A: [a]}\nrows: [{label: r, paper: {B: 1}}]",
            "'B', which is not a column",
        ),
    ],
)
def test_a_wrong_table_yaml_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_definition(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_definition(tmp_path / "table.yaml")


def test_a_table_like_another_says_only_what_differs(tmp_path: Path) -> None:
    for name, text in {"a": "title: A\ncolumns: [Acc]\nrows: [{label: r}]", "b": "like: a\ntitle: B"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.yaml").write_text(text)
    (one, other) = (read_definition(tmp_path / name / "table.yaml") for name in "ab")
    assert (other.title, other.columns, other.rows) == ("B", one.columns, one.rows)


@pytest.mark.parametrize(
    ("like", "sentence"),
    [("b", "like leads back to b"), ("c", "c/table.yaml does not exist"), ("../a", "like is '../a'")],
)
def test_a_table_like_itself_or_none_is_one_sentence(tmp_path: Path, like: str, sentence: str) -> None:
    for name, other in {"a": "b", "b": "a" if like == "b" else f"'{like}'"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.yaml").write_text(f"like: {other}")
    with pytest.raises(ConfigError, match=sentence):
        read_definition(tmp_path / "b" / "table.yaml")
