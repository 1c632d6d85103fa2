"""A record of task=diffseg holds the matched counts of every method's segments, whatever the batch and the shards."""

from __future__ import annotations

import dataclasses

import literal_diffseg as literal
import numpy as np
import pytest
import torch

from attention_chains import tasks
from attention_chains.capture import CaptureError
from attention_chains.methods import MethodError, tokenrank_grid, uniform_grid
from attention_chains.metrics.diffseg import measure, row, summarise
from attention_chains.models.sd15 import StableDiffusion
from attention_chains.records import read_run
from attention_chains.tasks.attention_tensor import read_tensor
from attention_chains.tasks.diffseg import Diffseg

ANCHORS = {"uniform_grid": uniform_grid.anchors, "tokenrank_grid": tokenrank_grid.anchors}
BOTH = "+methods={uniform: {name: uniform_grid}, tokenrank: {name: tokenrank_grid}}"
GROUPING = ["task.grid=4", "task.tau=0.05"]  # random weights attend almost evenly: maps are near each other


@pytest.fixture
def config(configured, tiny, tmp_path):
    """A run of three scenes, changed by overrides."""

    def make(*overrides, out="results"):
        run = configured("task=diffseg", *tiny, *GROUPING, *overrides)
        return dataclasses.replace(run, out=str(tmp_path / out))

    return make


def run(config):
    return tasks.run(tasks.build(config), config)[0]


@pytest.mark.parametrize("name", ANCHORS)
def test_segments_are_those_of_protocol_3_and_a_record_is_their_measurement(config, loaded, name):
    chosen = config(f"method={name}", "data.n=1")
    task = Diffseg(chosen)
    sample = task.dataset()[0]
    found = task.segments(sample.image, sample.labels.shape)[name]
    assert run(chosen).records[0]["stats"][name] == measure(found, sample.labels, 11)
    tensor = read_tensor(task._model, [sample.image])[0]
    anchors = ANCHORS[name](tensor, 16, grid=4).tolist()
    maps = literal.merged(tensor.double().view(16, 16, 16, 16).numpy(), anchors, 0.05, 3)
    expected = literal.label_map(maps, *sample.labels.shape)
    assert len(np.unique(expected)) > 2
    assert (found.numpy() == expected).mean() > 0.998  # in single precision a few pixels on a border go elsewhere


def test_records_hold_every_method_and_differ_between_them(config):
    outcome = run(config(BOTH))
    assert outcome.complete and [record["id"] for record in outcome.records] == [f"test-0-{i:05d}" for i in range(3)]
    for record in outcome.records:
        assert list(record["stats"]) == ["uniform", "tokenrank"]
        for stats in record["stats"].values():
            assert stats["labelled"] == 64 * 64 == sum(stats["tp"]) + sum(stats["fn"])
    assert any(record["stats"]["uniform"] != record["stats"]["tokenrank"] for record in outcome.records)


def test_a_method_more_adds_no_pass_of_the_model(config, loaded, monkeypatch):
    sizes, predict = [], StableDiffusion.predict
    monkeypatch.setattr(
        StableDiffusion, "predict", lambda self, x, *more: (sizes.append(len(x)), predict(self, x, *more))[1]
    )
    run(config("method=uniform_grid", "batch_size=3", out="one"))
    run(config(BOTH, "batch_size=3", out="two"))
    assert sizes == [1] * 6


def test_batches_and_shards_give_the_same_records(config, loaded):
    whole = run(config(BOTH)).records
    assert run(config(BOTH, "batch_size=2", out="batches")).records == whole
    for index in (1, 0):
        part = run(config(BOTH, "shard.count=2", f"shard.index={index}", out="shards"))
    assert part.records == whole


@pytest.mark.parametrize(
    "override", ["task.tau=0.02", "task.iterations=1", "task.grid=8", "task.timestep=20", "task.refine=true"]
)
def test_a_choice_of_protocol_reaches_the_numbers(config, loaded, override):
    usual, other = (run(config("data.n=1", *changes)).records for changes in ((), (override,)))
    assert usual != other


def test_float16_reaches_the_distances_and_is_told_apart(config, loaded, monkeypatch):
    seen = []
    kl = "attention_chains.methods.grouping.merging.symmetric_kl"
    from attention_chains.methods.grouping import symmetric_kl

    monkeypatch.setattr(kl, lambda x, y, *precision: (seen.append(precision), symmetric_kl(x, y, *precision))[1])
    run(config("task.precision=float16", "data.n=1"))
    assert seen == [("float16",), (), ()]  # the rounds after the first are not rounded
    assert "precision=float16" in config("task.precision=float16").task.reading


def test_running_metrics_are_those_of_the_last_method(config, loaded):
    chosen = config(BOTH)
    records = run(chosen).records
    sums = np.sum([row(record["stats"]["tokenrank"]) for record in records], axis=0)
    assert Diffseg(chosen).running(records) == pytest.approx(summarise(sums, 3), nan_ok=True)


def test_attention_that_is_no_number_stops_the_run_and_keeps_what_is_finished(config, loaded, tmp_path, monkeypatch):
    predict, passes = StableDiffusion.predict, []

    def failing(self, latents, *more):
        passes.append(1)
        return predict(self, latents * (torch.nan if len(passes) == 3 else 1), *more)

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion, "predict", failing)
        with pytest.raises(CaptureError, match=r"sum is off by nan: the model gave NaN .* model\.dtype=float32"):
            run(config("batch_size=5"))
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert len(read_run(folder)) == 2
    assert run(config("batch_size=5")).complete and len(passes) == 3


def test_more_anchors_than_tokens_are_refused(config, loaded):
    with pytest.raises(MethodError, match=r"task\.grid is 17, but there are 16 x 16 tokens: choose from 1 to 16"):
        run(config("task.grid=17"))


def test_a_method_that_gives_no_anchors_is_refused_before_anything_is_loaded(config):
    chosen = config()
    chosen.methods = {"a": dataclasses.replace(chosen.method, name="diffseg", alpha=None, distance=None)}
    with pytest.raises(MethodError, match=r"'diffseg' gives no anchors: choose one of tokenrank_grid, uniform_grid"):
        Diffseg(chosen)
