"""The data section of a configuration becomes labelled images; bad ones are counted, and left out only when told so."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_chains.config import ConfigError
from attention_chains.data.digit_classes import DigitClasses
from attention_chains.data.errors import DataError
from attention_chains.data.imagenet import URL as IMAGENET_URL
from attention_chains.data.imagenet import synsets
from attention_chains.data.imagenette import SYNSETS
from attention_chains.data.imagenette import URL as IMAGENETTE_URL
from attention_chains.tasks.datasets import missing_data, open_dataset, open_training_set
from attention_chains.tasks.runner import run_task


def write(root: Path, folders, count: int) -> Path:
    """So many photographs of noise in each folder."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for image in range(count):
            file = io.BytesIO()
            noise = np.random.default_rng([number, image]).integers(0, 256, (9, 12, 3), np.uint8)
            Image.fromarray(noise).save(file, "JPEG")
            (root / folder / f"image_{number}_{image}.JPEG").write_bytes(file.getvalue())
    return root


def equal(first, second) -> bool:
    return (first.ids, first.labels, first.fingerprint) == (second.ids, second.labels, second.fingerprint)


# What is opened


def test_digit_classes_have_the_settings_of_the_configuration(configured):
    config = configured("data=digit_classes", "data.n=3", "data.seed=9", "data.train=4").data
    assert equal(open_dataset(config), DigitClasses("test", 3, 9))
    assert equal(open_training_set(config), DigitClasses("train", 4, 9))
    assert missing_data(config) == []


def test_imagenet_draws_as_many_images_as_the_configuration_says(configured, tmp_path):
    path = f"data.path={write(tmp_path, synsets()[:3], 5)}"
    every = open_dataset(configured("data=imagenet", path, "data.n=null").data)
    drawn = open_dataset(configured("data=imagenet", path, "data.n=6", "data.seed=2").data)
    assert len(every) == 15 and drawn.ids == [every.ids[i] for i in np.random.RandomState(2).permutation(15)[:6]]


def test_imagenette_is_evaluated_on_val_and_trained_on_train(configured, tmp_path):
    root = tmp_path / "imagenette2"
    write(root, [f"val/{wnid}" for wnid in SYNSETS], 2)
    write(root, [f"train/{wnid}" for wnid in SYNSETS], 3)
    config = configured("data=imagenette", f"data.path={root}", "data.n=7", "data.train=11").data
    assert [len(open_dataset(config)), len(open_training_set(config))] == [7, 11]
    assert all(name.startswith("val/") for name in open_dataset(config).ids)
    assert all(name.startswith("train/") for name in open_training_set(config).ids)
    config = configured("data=imagenette", f"data.path={root}").data
    assert [len(open_dataset(config)), len(open_training_set(config))] == [20, 30]
    assert missing_data(config) == []


@pytest.mark.parametrize(
    ("option", "name", "n", "train"),
    [
        ("masking/mini", "digit_classes", 500, None),
        ("masking/paper", "imagenet", 5000, None),
        ("probing/mini", "digit_classes", 500, 2000),
        ("probing/paper", "imagenette", None, None),
    ],
)
def test_each_task_and_scale_has_the_data_of_the_protocol(configured, option, name, n, train):
    data = configured(f"data={option}").data
    assert (data.name, data.n, data.train, data.seed) == (name, n, train, 0)


# What is missing


def test_what_is_missing_is_told_with_where_to_get_it(configured, tmp_path):
    (sentence,) = missing_data(configured("data=imagenet", f"data.path={tmp_path}").data)
    assert IMAGENET_URL in sentence and str(tmp_path) in sentence
    config = configured("data=imagenette", f"data.path={tmp_path / 'imagenette2'}").data
    (sentence,) = missing_data(config)
    assert IMAGENETTE_URL in sentence and f"not at {tmp_path / 'imagenette2'}: " in sentence
    (tmp_path / "imagenette2").mkdir()
    assert len(missing_data(config)) == 2  # either split
    write(tmp_path / "imagenette2", [f"val/{wnid}" for wnid in SYNSETS], 1)
    (sentence,) = missing_data(config)
    assert str(tmp_path / "imagenette2" / "train") in sentence


def test_training_scenes_need_a_number(configured):
    with pytest.raises(DataError, match=r"data\.train is None: .* at least one"):
        open_training_set(configured("data=digit_classes").data)


@pytest.mark.parametrize("data", ["imagenet", "digit_scenes", "imagenet_segmentation"])
def test_a_set_without_training_images_is_told_those_that_have_some(configured, data):
    with pytest.raises(ConfigError, match=f"data={data} has no training images: choose .*digit_classes, imagenette"):
        open_training_set(configured(f"data={data}").data)


# Bad images in a run


class Brightness:
    """A task that measures the mean of each image."""

    def __init__(self, config):
        self.config = config

    def dataset(self):
        return open_dataset(self.config.data)

    def weights(self):
        return "none"

    def check(self, sample):
        return None

    def measure(self, samples, seed):
        return [{"stats": {"mean": {"label": sample.label, "mean": float(sample.image.mean())}}} for sample in samples]

    def prepare(self, folder): ...

    def prepared(self, folder):
        return True

    def running(self, records):
        return {}


def test_bad_images_are_counted_and_stop_the_run_unless_they_are_to_be_left_out(configured, tmp_path):
    root = write(tmp_path / "imagenet", [synsets()[5], synsets()[6], "n99999999"], 2)
    (root / synsets()[6] / "image_1_1.JPEG").write_bytes(b"no image")
    config = configured("data=imagenet", f"data.path={root}", "data.n=null", "logger=none")
    config = dataclasses.replace(config, out=str(tmp_path / "results"))
    with pytest.raises(DataError) as refused:
        run_task(Brightness(config), config)
    first, *each = str(refused.value).splitlines()
    assert "3 of 6 samples cannot be used" in first and "data.skip_bad=true" in first
    assert ["n99999999" in line for line in each] == [False, True, True] and "image_1_1" in each[0]
    config.data.skip_bad = True
    outcome = run_task(Brightness(config), config)
    assert (outcome.skipped, outcome.total) == (3, 6)
    assert [(record["id"], record["stats"]["mean"]["label"]) for record in outcome.records] == [
        ("image_0_0", 5),
        ("image_0_1", 5),
        ("image_1_0", 6),
    ]
