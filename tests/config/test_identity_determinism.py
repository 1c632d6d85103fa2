"""Two runs share their records exactly when nothing that decides the numbers differs."""

from __future__ import annotations

import json

import pytest

from attention_chains.config import RunConfig, TaskConfig, identity

HOW = [
    "shard.index=1 shard.count=2",
    "logger=none",
    "launcher=slurm",
    "device=cpu",
    "batch_size=3",
    "out=elsewhere",
    "repeats=4",
    "data.skip_bad=true",
    "model.source=a/moved/folder",
    "model.at.paper.steps=8",
]
WHAT = [
    "seed=1",
    "method.n=3",
    "method.alpha=0.9",
    "method.heads=uniform",
    "method.stream=single",
    "method=incoming",
    "task.noise=0.25",
    "task.threshold=te",
    "task.word_index=clip",
    "task.pooled=zero",
    "data.n=10",
    "data.seed=1",
    "data.prompt=word",
    "data.eval_size=32",
    "model.dtype=float16",
    "model.image_size=32",
    "model.dual_layers=[0]",
]


@pytest.mark.parametrize("overrides", HOW)
def test_how_and_where_the_work_is_done_does_not_count(overrides, configured):
    assert identity(configured(*overrides.split())) == identity(configured())


@pytest.mark.parametrize("override", WHAT)
def test_whatever_decides_the_numbers_counts(override, configured):
    assert identity(configured(override)) != identity(configured())


def test_a_key_without_a_value_does_not_count():
    run = RunConfig(task=TaskConfig(name="segmentation", protocol="p"), scale="mini")
    kept = identity(run)
    assert kept["task"] == {"name": "segmentation", "protocol": "p"} and kept["model"]["name"]
    assert "guidance" not in kept["model"] and "experiment" not in kept


def test_the_models_and_parts_of_an_experiment_do_not_count(configured):
    assert identity(configured("+models.mini=[flux]", "parts=[table7]")) == identity(configured())


def test_the_tables_of_flux_share_one_run(configured):
    first, second, third = (identity(configured(f"experiment={name}")) for name in ("table1", "table7", "table8"))
    assert first == second == third


def test_the_identity_is_plain_data(configured):
    plain = identity(configured("experiment=table7"))
    assert json.loads(json.dumps(plain)) == plain
