"""A segmentation record is the measurement of the method's map, and all methods share one capture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel

from attention_chains import tasks
from attention_chains.capture import MeanAttention
from attention_chains.metrics.segmentation import FIELDS, measure
from attention_chains.models import flux
from attention_chains.report.definition import Panels
from attention_chains.report.panels import draw_examples
from attention_chains.tasks.seeds import noise_seed

TABLE = "experiment=table7"


@pytest.fixture
def passes(monkeypatch):
    """Batch sizes of the transformer's passes, in order."""
    sizes = []
    forward = FluxTransformer2DModel.forward

    def watched(self, *args, **kwargs):
        sizes.append(len(kwargs["hidden_states"]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(FluxTransformer2DModel, "forward", watched)
    return sizes


def written_out(task, sample, seed, heads, n):
    """Map of the outgoing chain after n bounces, by matrix algebra."""
    model = task._model
    attention = model.attention([sample.image], [sample.prompt], [noise_seed(seed, sample.id)], noise=0.5)
    matrix = attention.heads().matrix()[0].double()
    weights = torch.ones(len(matrix)).double()
    if heads == "lambda2":
        weights = torch.linalg.eigvals(matrix).abs().sort(-1).values[:, -2]
    mean = torch.einsum("h,hij->ij", weights / weights.sum(), matrix)
    chain = 0.99 * mean + 0.01 / len(mean)
    chain = (chain / chain.sum(0)).T
    state = torch.zeros(len(chain)).double()
    state[:16] = model.start([sample.prompt], [sample.word])[0].double()
    for _ in range(n):
        state = state @ chain
    return state[16:].view(8, 8)


@pytest.mark.parametrize(("heads", "n"), [("lambda2", 2), ("uniform", 2), ("lambda2", 1)])
def test_a_record_is_the_measurement_of_the_map_of_protocol_1_3(configured, small, tmp_path, heads, n):
    config = configured(*small, f"out={tmp_path}", "data.n=2", f"method.heads={heads}", f"method.n={n}")
    task = tasks.build(config)
    records = tasks.run(task, config)[0].records
    for record, sample in zip(records, task.dataset(), strict=True):
        score = written_out(task, sample, config.seed, heads, n)
        expected = measure(score, sample.mask, "ca", 32)
        assert record["stats"]["outgoing"] == pytest.approx(expected, abs=1e-5)


def test_records_hold_every_field_of_every_method_for_every_sample(segment):
    outcome = segment(TABLE)
    assert outcome.complete and (outcome.skipped, outcome.total) == (0, 5)
    assert [(record["index"], record["id"]) for record in outcome.records] == [
        (index, f"test-0-{index:05d}") for index in range(5)
    ]
    for record in outcome.records:
        assert len(record["stats"]) == 11
        for statistics in record["stats"].values():
            assert tuple(statistics) == FIELDS
            assert sum(statistics[field] for field in ("tn", "fp", "fn", "tp")) == 32 * 32


def test_other_methods_give_other_numbers(segment):
    records = segment(TABLE).records
    numbers = {label: tuple(record["stats"][label]["ap"] for record in records) for label in records[0]["stats"]}
    assert len(set(numbers.values())) == len(numbers)


def test_a_method_more_adds_no_pass(segment, passes):
    segment("batch_size=5")
    one = list(passes)
    passes.clear()
    segment(TABLE, "batch_size=5")
    assert one == passes == [5, 5]  # t = 0.5 and 0.25


def test_attention_is_kept_as_one_running_mean_for_each_stream_that_a_method_reads(segment, monkeypatch):
    means = []

    class Watched(MeanAttention):
        def __init__(self):
            super().__init__()
            means.append(self)

    monkeypatch.setattr(flux, "MeanAttention", Watched)
    segment("data.n=2", "batch_size=2")
    segment(TABLE, "data.n=2", "batch_size=2")
    assert [(mean.count, tuple(mean.matrix().shape)) for mean in means] == [(4, (2, 2, 80, 80))] * 3


def test_no_bounce_is_a_map_of_nothing_and_is_measured_as_such(segment):
    for record in segment("method.n=0").records:
        statistics = record["stats"]["outgoing"]
        assert (statistics["fp"], statistics["tp"], statistics["ap"]) == (0, 0, 0.5)


@pytest.mark.parametrize(
    "override", ["task.pooled=zero", "task.noise=0.25", "task.word_index=clip", "task.threshold=te", "seed=1"]
)
def test_a_choice_of_protocol_reaches_the_numbers(segment, override):
    assert segment().records != segment(override).records


def test_repeats_are_runs_with_the_next_seeds(configured, small, tmp_path, segment):
    config = configured(*small, f"out={tmp_path}", "repeats=2", "seed=3")
    first, second = tasks.run(tasks.build(config), config)
    assert (first.seed, second.seed) == (3, 4) and first.folder != second.folder
    assert first.records == segment("seed=3").records and second.records == segment("seed=4").records


def test_weights_are_hashed_once_for_all_repeats(configured, small, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr("attention_chains.models.weights_digest", lambda *of: hashed.append(of) or "0" * 64)
    config = configured(*small, f"out={tmp_path}", "repeats=3", "data.n=1")
    tasks.run(tasks.build(config), config)
    assert len(hashed) == 1


def test_the_maps_of_the_figure_are_those_that_were_measured(configured, small, tmp_path, monkeypatch):
    config = configured(*small, f"out={tmp_path}", TABLE, "data.n=2")
    task = tasks.build(config)
    records = tasks.run(task, config)[0].records
    drawn = []
    monkeypatch.setattr("attention_chains.report.panels.draw_panels", lambda rows, *_, **__: drawn.extend(rows))
    panels = Panels(methods=["outgoing-n2", "row-select"], samples=2)
    draw_examples(task, panels, "mini", config.seed, tmp_path / "figure.png")
    for record, row in zip(records, drawn, strict=True):
        for label in panels.methods:
            found = measure(np.asarray(row.maps[label]), row.mask, "ca", 32)
            assert found == pytest.approx(record["stats"][label], abs=1e-5)
