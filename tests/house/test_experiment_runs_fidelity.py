"""An experiment of several models is a run for each; a chosen model leaves the others to other jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from attention_chains.config import ConfigError, RunConfig, register, resolve
from attention_chains.launch import check_sweep, runs_of
from attention_chains.report.curves import read_figure
from attention_chains.report.definition import read_definition
from attention_chains.report.grid import read_grid
from attention_chains.report.significance import read_tests

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPERIMENTS = CONFIGS.parent / "experiments"
PAPER = [
    "vit", "vit_l16", "clip", "clip_l14", "clip_l14_336", "dinov1", "dinov1_b8", "dinov1_s16", "dinov1_s8", "dinov2",
    "dinov2_b14", "dinov2_l14",
]  # fmt: skip


@pytest.fixture
def runs() -> Callable[..., tuple[list[RunConfig], list[RunConfig]]]:
    """Overrides in; the runs to be done now, and those left to others, out."""
    register(CONFIGS)

    def composed(*overrides: str) -> tuple[list[RunConfig], list[RunConfig]]:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return runs_of(resolve(compose("config", list(overrides)), overrides), overrides)

    return composed


def names(found: list[RunConfig]) -> list[str]:
    return [run.model.name for run in found]


@pytest.mark.parametrize(("scale", "models"), [("mini", ["vit", "clip", "dinov1", "dinov2"]), ("paper", PAPER)])
def test_an_experiment_is_a_run_of_each_of_its_models_at_the_scale(scale, models, runs):
    now, others = runs("experiment=table4", f"scale={scale}", "data.n=7")
    assert names(now) == models and others == []
    assert {(run.task.name, run.scale, run.data.n, run.experiment) for run in now} == {("masking", scale, 7, "table4")}
    assert len({run.model.source for run in now}) == len(models)  # each with a checkpoint of its own


def test_a_chosen_model_is_run_and_the_others_are_left(runs):
    now, others = runs("experiment=table4", "model=clip", "data.n=7")
    assert names(now) == ["clip"] and names(others) == ["vit", "dinov1", "dinov2"]
    assert runs("experiment=table4", "data.n=7")[0] == sorted(
        [*now, *others], key=lambda run: PAPER.index(run.model.name)
    )


def test_without_several_models_there_is_one_run(runs):
    for overrides in ((), ("experiment=table7",), ("task=masking", "model=dinov2", "method=cls")):
        now, others = runs(*overrides)
        assert len(now) == 1 and others == []


def test_tables_and_figures_of_the_same_methods_share_their_runs(runs):
    assert [replace(run, experiment=None) for run in runs("experiment=fig7")[0]] == [
        replace(run, experiment=None) for run in runs("experiment=table4")[0]
    ]


def test_table2_and_the_figures_beside_it_share_their_images(runs):
    first, *others = (runs(f"experiment={name}")[0] for name in ("table2", "fig5", "fig12"))
    assert [[replace(run, experiment="table2") for run in each] for each in others] == [first, first]


def test_table1_runs_diffseg_beside_its_own_methods(runs):
    now, others = runs("experiment=table1", "data.n=7", "model=flux_dev", "scale=paper", "methods.outgoing-n2.n=3")
    assert others == [] and [(run.model.name, run.data.n) for run in now] == [("flux_dev", 7), ("sd15", 7)]
    assert now[0].methods["outgoing-n2"].n == 3 and list(now[1].methods) == ["diffseg"]
    assert {run.task.name for run in now} == {"segmentation"} and now[1].task.noise is None
    assert now[0].data == now[1].data


def test_an_experiment_of_parts_is_the_runs_of_all_of_them(runs):
    now, others = runs("experiment=table9", "device=cpu")
    parts = [run for part in ("table5", "table6", "table8") for run in runs(f"experiment={part}", "device=cpu")[0]]
    assert now == parts and others == [] and {run.device for run in now} == {"cpu"}


@pytest.mark.parametrize("given", ["model=vit", "model.image_size=32", "data=digit_classes"])
def test_what_only_one_part_can_use_is_refused(given, runs):
    with pytest.raises(ConfigError, match=f"'{given}' cannot be given to experiment=table9, which is filled by table5"):
        runs("experiment=table9", given)


def test_an_experiment_without_a_model_at_the_scale_says_so(runs):
    with pytest.raises(ConfigError, match=r"experiment=fig8 has no models at scale=mini; add models\.mini"):
        runs("experiment=fig8", "~models.mini")


@pytest.mark.parametrize(("scale", "blocks"), [("mini", 6), ("paper", 12)])
def test_the_number_of_masked_blocks_follows_the_scale(scale, blocks, runs):
    (run,), _ = runs("experiment=fig8", f"scale={scale}")
    counts = {spec.blocks for label, spec in run.methods.items() if label.startswith("tokenrank-")}
    assert counts == set(range(1, blocks + 1)) and len(run.methods) == 5 * blocks
    assert all(label.endswith(f"-{spec.blocks}") for label, spec in run.methods.items())


def test_a_sweep_checks_the_runs_of_every_part_before_its_first_job():
    register(CONFIGS)
    check_sweep(["-m", "experiment=table4", "model=vit,clip"], CONFIGS)
    with pytest.raises(ConfigError, match=r"shard\.index is 9"):
        check_sweep(["-m", "experiment=table9,table4", "shard.index=0,9", "shard.count=2"], CONFIGS)


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_everything_that_a_table_or_a_figure_names_is_run(scale, runs):
    of_table3 = {"mini": "sd15", "paper": "sd14"}[scale]  # protocol 3.1
    for name, of in (("table1", "flux sd15"), ("table2", "sd15"), ("table3", of_table3)):
        definition = read_definition(EXPERIMENTS / name / "table.yaml")
        now, _ = runs(f"experiment={name}", f"scale={scale}")
        assert {row.method for row in definition.rows} - {None} <= {label for run in now for label in run.methods}
        assert {run.task.name for run in now} == {definition.task} and [run.model.name for run in now] == of.split()
    for name in ("fig5", "fig12"):
        shown = {column.method for column in read_grid(EXPERIMENTS / name / "grid.yaml").columns}
        assert shown == set(runs(f"experiment={name}", f"scale={scale}")[0][0].methods)
    for name in ("table4", "table5", "table5_max", "table6"):
        definition = read_definition(EXPERIMENTS / name / "table.yaml")
        now, _ = runs(f"experiment={name}", f"scale={scale}")
        families = {model: family for family, models in definition.families.items() for model in models}
        assert {row.method for row in definition.rows} <= set(now[0].methods)
        assert {families[run.model.name] for run in now} == set(definition.families)
        assert {run.task.name for run in now} == {definition.task}
    parts = runs("experiment=table9", f"scale={scale}")[0]
    for test in read_tests(EXPERIMENTS / "table9/table.yaml").tests:
        of_test = [run for run in parts if run.model.name in test.models and run.task.name == test.task]
        assert sum({test.first, test.second} <= set(run.methods) for run in of_test) == 1, test.label
    for name in ("fig7", "fig8", "fig9"):
        labels = [line.method for line in read_figure(EXPERIMENTS / name / "figure.yaml").lines]
        methods = runs(f"experiment={name}", f"scale={scale}")[0][0].methods
        assert {label.format(x=1) for label in labels} <= set(methods)


def test_probes_have_the_papers_learning_rates_at_scale_paper(runs):
    for name in ("table5", "table5_max", "table6"):
        (paper, *_), _ = runs(f"experiment={name}", "scale=paper")
        assert paper.task.learning_rates == [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3]
        assert runs(f"experiment={name}")[0][0].task.learning_rates == [1, 3, 10, 30, 100, 300, 1000]
