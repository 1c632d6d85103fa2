"""A run that is interrupted, by whatever, goes on where it stopped and ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attention_chains.models.flux import Flux
from attention_chains.records import RecordError, ShardStore, read_run
from attention_chains.tracking import Tracker

ROOT = Path(__file__).resolve().parents[2]
WHOLE = "shard-00000-of-00001.jsonl"
ENDS = {"ctrl-c": KeyboardInterrupt(), "full disk": RecordError("No space left."), "a bug": ZeroDivisionError()}


@contextmanager
def ended(count: int, error: BaseException) -> Iterator[None]:
    """Let a run end by an error when it has kept so many records."""
    append, kept = ShardStore.append, []

    def failing(store, record):
        if len(kept) == count:
            raise error
        append(store, record)
        kept.append(record)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(ShardStore, "append", failing)
        yield


@pytest.fixture
def computed(monkeypatch):
    """Seeds of the samples whose attention was computed."""
    seeds = []
    attention = Flux.attention

    def watched(self, images, prompts, given, *args, **kwargs):
        seeds.extend(given)
        return attention(self, images, prompts, given, *args, **kwargs)

    monkeypatch.setattr(Flux, "attention", watched)
    return seeds


@pytest.mark.parametrize(("kind", "count"), [("ctrl-c", 0), ("full disk", 2), ("a bug", 4)])
def test_what_was_finished_is_kept_and_not_computed_again(segment, computed, tmp_path, kind, count):
    undisturbed = segment("batch_size=1", out="undisturbed")
    with ended(count, ENDS[kind]):
        segment("batch_size=1")
    folder = tmp_path / "results" / "runs" / undisturbed.folder.name
    assert [record["index"] for record in read_run(folder)] == list(range(count))
    computed.clear()
    assert segment("batch_size=1").records == undisturbed.records
    assert len(computed) == 5 - count
    assert (folder / WHOLE).read_bytes() == (undisturbed.folder / WHOLE).read_bytes()


def test_in_the_middle_of_a_batch_too(segment, computed):
    undisturbed = segment("batch_size=3", out="undisturbed").records
    with ended(1, KeyboardInterrupt()):
        segment("batch_size=3")
    computed.clear()
    resumed = segment("batch_size=3").records
    assert len(computed) == 4
    for first, second in zip(undisturbed, resumed, strict=True):
        assert second["stats"]["outgoing"] == pytest.approx(first["stats"]["outgoing"], abs=1e-5)


def test_a_shard_goes_on_without_the_samples_of_the_other(segment, computed):
    shard = ("batch_size=1", "shard.count=2", "shard.index=1")  # samples 1 and 3
    with ended(1, KeyboardInterrupt()):
        segment(*shard)
    computed.clear()
    assert [record["index"] for record in segment(*shard).records] == [1, 3] and len(computed) == 1


def test_a_resumed_run_is_tracked_in_the_same_place_and_another_shard_in_another(segment, monkeypatch):
    opened = []

    def open_tracker(folder, run_name, **_):
        opened.append((folder, run_name))
        return Tracker()

    monkeypatch.setattr("attention_chains.tasks.runner.open_tracker", open_tracker)
    with ended(2, KeyboardInterrupt()):
        segment("batch_size=1")
    folder = segment("batch_size=1").folder
    segment("data.n=6", "shard.count=2")
    first, resumed, shard = opened
    assert first == resumed and first[0].is_relative_to(folder) and first[1] == folder.name
    assert shard[0].name != first[0].name


@pytest.mark.slow  # starts run.py three times
def test_killed_by_the_system_the_same_command_ends_in_the_same_bytes(segment, small, tmp_path):
    settings = ["data.n=60", "batch_size=1"]
    undisturbed = segment(*settings)
    command = [sys.executable, "run.py", *small, *settings, f"out={tmp_path / 'killed'}"]
    path = tmp_path / "killed" / "runs" / undisturbed.folder.name / WHOLE
    kept = b""
    for wanted in sorted(random.Random(0).sample(range(2, 50), 2)):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)
        while not path.exists() or path.read_bytes().count(b"\n") <= wanted:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert path.read_bytes().startswith(kept)  # what was finished before stays, bit for bit, and is not added again
        kept = path.read_bytes().rpartition(b"\n")[0]
        assert 0 < kept.count(b"\n") < 60
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(kept)
    assert path.read_bytes() == (undisturbed.folder / WHOLE).read_bytes()
