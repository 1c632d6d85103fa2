"""Bad samples are counted and listed before anything is measured; they stop the run unless they may be skipped."""

from __future__ import annotations

import re

import pytest

from attention_chains import tasks
from attention_chains.config import ConfigError
from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.data.errors import DataError
from attention_chains.methods import MethodError
from attention_chains.models import AssetError
from attention_chains.models.flux import Flux
from attention_chains.records import RecordError, read_run


@pytest.fixture
def broken(monkeypatch):
    """Make scenes of the data set unreadable."""

    def scenes(*indices):
        read = DigitScenes.__getitem__

        def failing(self, index):
            if index in indices:
                raise DataError(f"Sample {index} does not decode.")
            return read(self, index)

        monkeypatch.setattr(DigitScenes, "__getitem__", failing)

    return scenes


def refusal(kind, action) -> str:
    with pytest.raises(kind) as refused:
        action()
    return str(refused.value)


def test_bad_samples_stop_the_run_before_the_first_is_measured_and_are_listed(segment, broken, monkeypatch):
    broken(1, 4)
    monkeypatch.setattr(Flux, "attention", lambda *_, **__: pytest.fail("measured"))
    first, *listed = refusal(DataError, segment).splitlines()
    assert first.startswith("2 of 5 samples cannot be used") and "data.skip_bad=true" in first
    assert listed == ["Sample 1 does not decode.", "Sample 4 does not decode."]


def test_skipped_samples_are_counted_and_the_others_are_what_they_would_be(segment, broken):
    whole = segment("batch_size=1", out="whole").records
    broken(1, 4)
    outcome = segment("batch_size=1", "data.skip_bad=true")
    assert outcome.skipped == 2 and outcome.complete
    assert outcome.records == [whole[index] for index in (0, 2, 3)]


def test_the_reason_for_skipping_is_kept(segment, broken):
    broken(1)
    (skipped,) = [record for record in read_run(segment("data.skip_bad=true").folder) if "skipped" in record]
    assert skipped == {"index": 1, "id": "test-0-00001", "skipped": "Sample 1 does not decode."}


def test_what_was_finished_stays_when_a_later_sample_turns_bad(segment, broken, tmp_path):
    segment("shard.count=2", "shard.index=0")
    broken(3)
    refusal(DataError, lambda: segment("shard.count=2", "shard.index=1"))
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert [record["index"] for record in read_run(folder)] == [0, 2, 4]


def test_samples_that_an_earlier_run_left_out_are_not_left_out_silently(segment, broken):
    broken(1)
    folder = segment("data.skip_bad=true").folder
    sentence = refusal(DataError, segment)
    assert sentence.startswith("1 samples were left out with data.skip_bad=true") and str(folder) in sentence
    assert segment("data.skip_bad=true").skipped == 1


def test_only_bad_samples_leave_a_run_without_numbers(segment, broken):
    broken(0, 1, 2, 3, 4)
    outcome = segment("data.skip_bad=true")
    assert (outcome.records, outcome.skipped, outcome.complete) == ([], 5, True)


def test_a_word_that_the_model_cannot_place_is_a_bad_sample(segment):
    too_short = ("model.text_length=8", "data.word=digit")  # "a photo of a red three" fills eight tokens, then the end
    sentence = refusal(DataError, lambda: segment(*too_short))
    assert sentence.startswith("5 of 5 samples cannot be used") and "raise model.text_length" in sentence
    assert segment(*too_short, "data.skip_bad=true").skipped == 5


def test_a_method_that_does_not_exist_is_refused_before_anything_is_loaded(configured, small):
    config = configured(*small)
    config.methods["outgoing"].name = "outgoign"
    assert "There is no method 'outgoign': choose one of" in refusal(MethodError, lambda: tasks.build(config))


@pytest.mark.parametrize(
    ("section", "sentence"), [("task", "There is no task 'x'"), ("data", "There is no data set 'x'")]
)
def test_a_task_or_data_set_that_does_not_exist_is_told_those_that_do(configured, small, section, sentence):
    config = configured(*small)
    getattr(config, section).name = "x"
    said = refusal(ConfigError, lambda: tasks.run(tasks.build(config), config))
    assert re.fullmatch(rf"{sentence}: choose one of [\w, ]+\.", said)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_told(configured, small, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.mps.is_available", lambda: False)
    config = configured(*small, f"device={device}")
    sentence = refusal(ConfigError, lambda: tasks.build(config))
    assert f"device={device} is not on this machine" in sentence and "device=auto" in sentence


def test_blocks_that_the_model_does_not_have_are_told(segment):
    sentence = refusal(AssetError, lambda: segment("model.dual_layers=[1,5]"))
    assert "model.dual_layers names block 5" in sentence and "choose from 0..1" in sentence


def test_a_stream_that_no_method_reads_is_not_looked_for(segment):
    assert segment("model.single_layers=[9]").complete


def test_a_results_folder_that_is_a_file_is_told(segment, tmp_path):
    (tmp_path / "taken").write_text("")
    sentence = refusal(RecordError, lambda: segment(out="taken"))
    assert sentence.startswith(f"Cannot write {tmp_path / 'taken'}") and "out=<folder>" in sentence


def test_a_second_writer_of_the_same_shard_is_refused(segment, monkeypatch):
    said = []

    def meanwhile(*_):
        said.append(refusal(RecordError, segment))
        raise KeyboardInterrupt

    monkeypatch.setattr("attention_chains.tasks.segmentation.Segmentation.measure", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        segment()
    assert "shard-00000-of-00001.jsonl is being written by process" in said[0]
