"""The same run gives the same records, however it is cut into batches, shards and attempts."""

from __future__ import annotations

import shutil

import pytest

from attention_chains.records import read_run

EXACT = "batch_size=1"  # two batch sizes may differ in the last bits: another kernel multiplies another shape


def shards(outcome):
    return {path.name: path.read_bytes() for path in outcome.folder.glob("*.jsonl")}


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_samples_run_one_by_one_unless_asked_otherwise_so_that_shards_and_resumed_runs_agree(configured, scale):
    assert configured(f"scale={scale}").batch_size == 1


def test_the_same_command_gives_the_same_bytes(segment):
    first, again = segment(out="a"), segment(out="b")
    assert first.folder != again.folder and first.folder.name == again.folder.name
    assert shards(first) == shards(again)


def test_a_finished_run_is_read_and_not_computed_again(segment, monkeypatch):
    first = segment()
    before = shards(first)
    monkeypatch.setattr("attention_chains.tasks.segmentation.Segmentation.measure", lambda *_: pytest.fail("measured"))
    again = segment()
    assert again == first and shards(again) == before


def test_the_size_of_a_batch_changes_no_record(segment):
    one, two, all_at_once = (segment(f"batch_size={size}", out=str(size)).records for size in (1, 2, 8))
    for first, *others in zip(one, two, all_at_once, strict=True):
        for other in others:
            assert other["id"] == first["id"]
            assert other["stats"]["outgoing"] == pytest.approx(first["stats"]["outgoing"], abs=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_shards_in_either_order_are_one_run(segment, order):
    whole = segment(EXACT, out="whole")
    parts = [segment(EXACT, "shard.count=2", f"shard.index={index}") for index in order]
    assert not parts[0].complete and parts[1].complete
    assert parts[1].records == whole.records
    assert parts[0].folder == parts[1].folder and parts[0].folder.name == whole.folder.name


def test_shards_of_two_machines_are_merged_by_copying_their_files(segment):
    whole = segment(EXACT)
    parts = [segment(EXACT, "shard.count=2", f"shard.index={index}", out=str(index)) for index in (0, 1)]
    for path in parts[1].folder.glob("*.jsonl"):
        shutil.copy(path, parts[0].folder)
    assert read_run(parts[0].folder) == whole.records


def test_a_sample_is_measured_alike_in_a_longer_run(segment):
    short, long = segment(EXACT, "data.n=2"), segment(EXACT, "data.n=4")
    assert long.records[:2] == short.records


def test_methods_are_measured_alike_alone_and_together(segment):
    together = segment(EXACT, "experiment=table7").records
    alone = segment(EXACT, "method=outgoing", "method.n=3").records
    assert [record["stats"]["outgoing"] for record in alone] == [record["stats"]["outgoing-n3"] for record in together]
