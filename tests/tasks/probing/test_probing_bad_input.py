"""Bad input is told in a sentence, before anything is measured."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from attention_chains import tasks
from attention_chains.config import ConfigError, MethodConfig
from attention_chains.data.digit_classes import DigitClasses
from attention_chains.data.errors import DataError
from attention_chains.data.labelled import Labelled
from attention_chains.methods import MethodError
from attention_chains.models import AssetError
from attention_chains.records import RecordError
from attention_chains.tasks import features
from attention_chains.tasks.features import make_features, open_features


def refusal(kind, action) -> str:
    with pytest.raises(kind) as refused:
        action()
    return str(refused.value)


@pytest.fixture
def broken(monkeypatch):
    """Make images of one split unreadable: ids in."""

    def make(*ids):
        read = DigitClasses.__getitem__

        def failing(self, index):
            if self.ids[index] in ids:
                raise DataError(f"Sample '{self.ids[index]}' does not decode.")
            return read(self, index)

        monkeypatch.setattr(DigitClasses, "__getitem__", failing)

    return make


def test_unreadable_training_images_are_all_listed_before_any_features_are_made(probe, broken, tmp_path):
    broken("train-0-00003", "train-0-00017", "test-0-00001")
    first, *listed = refusal(DataError, probe).splitlines()
    assert first.startswith("2 of 30 training images cannot be used") and "data.skip_bad=true" in first
    assert listed == ["Sample 'train-0-00003' does not decode.", "Sample 'train-0-00017' does not decode."]
    assert not list((tmp_path / "results").rglob("*.npy"))


def test_unreadable_evaluation_images_are_listed(probe, broken):
    broken("test-0-00001", "test-0-00004")
    first, *listed = refusal(DataError, probe).splitlines()
    assert first.startswith("2 of 7 samples cannot be used")
    assert listed == ["Sample 'test-0-00001' does not decode.", "Sample 'test-0-00004' does not decode."]


def test_skipped_images_are_counted_and_the_classifiers_are_trained_on_the_others(probe, broken, monkeypatch):
    broken("train-0-00003", "test-0-00004")
    trained = []
    train = tasks.probing.train
    monkeypatch.setattr(tasks.probing, "train", lambda *given: trained.append(given[1].tolist()) or train(*given))
    (outcome,) = probe("data.skip_bad=true")
    assert outcome.skipped == 1 and [record["index"] for record in outcome.records] == [0, 1, 2, 3, 5, 6]
    labels = DigitClasses("train", 30, 0).labels
    assert trained == [labels[:3] + labels[4:]]


def test_a_repaired_image_is_used_and_the_classifiers_are_trained_anew(probe, broken, monkeypatch):
    with monkeypatch.context():
        broken("train-0-00003")
        probe("data.skip_bad=true", "data.n=5")
    monkeypatch.undo()
    trained = []
    train = tasks.probing.train
    monkeypatch.setattr(tasks.probing, "train", lambda *given: trained.append(len(given[1])) or train(*given))
    probe("data.skip_bad=true")
    assert trained == [30]


def test_no_training_image_at_all_is_told(probe, broken):
    broken(*(f"train-0-{index:05d}" for index in range(30)))
    assert "No training image of data=digit_classes can be read" in refusal(
        DataError, lambda: probe("data.skip_bad=true")
    )


def test_an_image_smaller_than_a_patch_is_a_bad_sample(probe, monkeypatch):
    read = DigitClasses.__getitem__

    def tiny(self, index):
        sample = read(self, index)
        return Labelled(sample.id, sample.image[:4, :4], sample.label, sample.class_name) if index == 2 else sample

    monkeypatch.setattr(DigitClasses, "__getitem__", tiny)
    assert "smaller than one patch" in refusal(DataError, probe)
    assert probe("data.skip_bad=true")[0].skipped == 1


@pytest.mark.parametrize("key", ["probe", "learning_rates", "epochs", "train_batch", "scaling"])
def test_a_key_that_a_probe_needs_is_asked_for(probing, key):
    config = probing()
    setattr(config.task, key, None)
    assert f"task.{key} has no value" in refusal(ConfigError, lambda: tasks.build(config))


def test_heads_are_averaged_by_layer_only(probing):
    spec = MethodConfig(name="tokenrank", heads="lambda2")
    sentence = refusal(MethodError, lambda: tasks.build(probing(x=spec)))
    assert "'tokenrank' does not take 'heads'" in sentence
    tasks.build(probing("task.probe=layers", x=spec))


def test_a_method_that_ranks_no_patches_is_refused(probing):
    sentence = refusal(MethodError, lambda: tasks.build(probing(x=MethodConfig(name="outgoing"))))
    assert "Method 'outgoing' gives no ranking" in sentence


def test_classes_that_differ_are_told(probe, monkeypatch):
    classes = property(lambda self: ["zero", "one"] if self.ids[0].startswith("train") else ["zero", "two"])
    monkeypatch.setattr(DigitClasses, "classes", classes)
    assert "use two splits of one data set" in refusal(DataError, probe)


def test_what_is_missing_is_told_before_anything_is_run(probe):
    sentences = refusal(AssetError, lambda: probe("model.source=nowhere", "data.train=null")).splitlines()
    assert len(sentences) == 2
    assert "nowhere holds no model" in sentences[0] and "data.train" in sentences[1]


def test_a_data_set_without_training_images_is_refused(probing, probe):
    sentence = refusal(ConfigError, lambda: probe("data=imagenet", "data.path=/tmp"))
    assert sentence == "task=probing cannot be run on data=imagenet; it takes digit_classes, imagenette."


def test_classifiers_that_cannot_be_read_are_told(probe):
    (outcome,) = probe()
    (path,) = (outcome.folder / "classifiers").glob("*.safetensors")
    path.write_bytes(b"nothing")
    next(outcome.folder.glob("*.jsonl")).unlink()
    sentence = refusal(RecordError, probe)
    assert f"{path} cannot be read" in sentence and "delete it" in sentence


def test_features_that_are_not_finite_are_told_and_not_kept(tmp_path):
    made = make_features(tmp_path, "x", {}, 2, (1, 1, 2))
    sentence = refusal(RecordError, lambda: made.write([1], np.array([[1.0, np.nan]])))
    assert "not finite" in sentence and "x.npy" in sentence and made.there.tolist() == []


def test_a_description_that_was_changed_is_told(tmp_path):
    make_features(tmp_path, "x", {"of": 1}, 2, (1, 1, 2))
    content = json.loads((tmp_path / "x.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps({**content, "identity": {"of": 2}}))
    assert "does not describe the features beside it" in refusal(
        RecordError, lambda: open_features(tmp_path, "x", {"of": 1})
    )


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    sentence = refusal(RecordError, lambda: make_features(tmp_path, "x", {}, 2, (1, 1, 2)))
    assert "No space left" in sentence and "make room" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_is_a_file_is_told(probe, tmp_path):
    (tmp_path / "taken").write_text("")
    assert "Cannot write" in refusal(RecordError, lambda: probe(out="taken"))
