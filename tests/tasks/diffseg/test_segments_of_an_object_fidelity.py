"""DiffSeg in task=segmentation: the same records as FLUX's methods have, from segments grouped by the mask."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attention_chains import tasks
from attention_chains.methods import MethodError
from attention_chains.methods.grouping import Merging, label_map, merged
from attention_chains.methods.uniform_grid import anchors
from attention_chains.metrics.segmentation import FIELDS, summarise
from attention_chains.metrics.segments import measure_segments
from attention_chains.tasks.attention_tensor import read_tensor
from attention_chains.tasks.segmentation import Segmentation


@pytest.fixture
def config(configured, tiny, tmp_path):
    def make(*overrides, out="results"):
        run = configured("task=segments", *tiny, "data.eval_size=32", "task.tau=0.05", "task.grid=4", *overrides)
        return dataclasses.replace(run, out=str(tmp_path / out))

    return make


def run(config):
    return tasks.run(tasks.build(config), config)[0]


def test_a_record_is_the_best_grouping_of_the_images_segments(config):
    chosen = config()
    task = Segmentation(chosen)
    kinds = []
    for record, sample in zip(run(chosen).records, task.dataset(), strict=True):
        tensor = read_tensor(task._model, [sample.image])[0]
        proposals = merged(tensor, anchors(tensor, 16, 4), Merging(0.05))
        labels = label_map(proposals, (16, 16), (32, 32))
        assert record["stats"]["diffseg"] == measure_segments(labels, sample.mask, 32)
        assert tuple(record["stats"]["diffseg"]) == FIELDS
        kinds.append(len(labels.unique()))
    assert max(kinds) > 2


def test_as_it_is_the_protocol_is_diffsegs(configured):
    reading = configured("task=segments", "scale=paper").task.reading
    assert reading == "segmentation-1 timestep=300 grid=16 tau=1.1 iterations=3 precision=float32 refine=no"


def test_batches_and_shards_give_the_same_records(config, loaded):
    whole = run(config()).records
    assert run(config("batch_size=2", out="batches")).records == whole
    for index in (1, 0):
        part = run(config("shard.count=2", f"shard.index={index}", out="shards"))
    assert part.records == whole


def test_no_word_and_no_noise_is_used(config, loaded):
    whole = run(config(out="a")).records
    others = ("data.word=digit", "seed=5")
    assert run(config(*others, out="b")).records == whole


def test_running_metrics_and_maps_are_those_of_the_segments(config, loaded):
    chosen = config()
    records, task = run(chosen).records, Segmentation(chosen)
    sums = np.sum([[record["stats"]["diffseg"][field] for field in FIELDS] for record in records], axis=0)
    assert task.running(records) == pytest.approx(summarise(sums, 3))
    sample = task.dataset()[0]
    (found,) = task.maps([sample.image], [sample.prompt], [sample.word], [0]).values()
    assert found.shape == (1, 32, 32) and found.min() == 0


@pytest.mark.parametrize(
    ("task", "model", "method", "kind"),
    [("segments", "sd15", "outgoing", "segments"), ("segmentation", "flux", "diffseg", "scores")],
)
def test_a_model_is_told_the_methods_that_read_it(configured, tiny, task, model, method, kind):
    chosen = configured(f"task={task}", *tiny, f"model={model}", f"method={method}")
    with pytest.raises(MethodError, match=f"Method '{method}' gives no {kind}: choose one of"):
        tasks.build(chosen)
