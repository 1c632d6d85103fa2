"""The data section of a configuration becomes the data set that it describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.data.gtsegs import URL
from attention_chains.tasks.datasets import missing_data, open_dataset

PAPER = ("scale=paper", "data=imagenet_segmentation")


def test_digit_scenes_have_the_settings_of_the_configuration(configured):
    chosen = ["data.split=train", "data.n=3", "data.seed=9", "data.word=digit", 'data.prompt="a {word}"']
    found = open_dataset(configured(*chosen).data)
    expected = DigitScenes("train", 3, 9, "digit", "a {word}")
    assert (found.ids, found.fingerprint) == (expected.ids, expected.fingerprint)
    assert [sample.prompt for sample in found] == [sample.prompt for sample in expected]


def test_imagenet_segmentation_reads_the_file_and_its_words(configured, gtsegs):
    data = open_dataset(configured(*PAPER, *gtsegs).data)
    assert data.ids == ["n02123045_0", "n02084071_1"]
    assert [(sample.word, sample.prompt) for sample in data] == [("cat", "a cat"), ("dog", "a dog")]
    assert data[1].image.shape == (50, 60, 3) and np.argwhere(data[1].mask)[[0, -1]].tolist() == [[5, 10], [29, 39]]


@pytest.mark.parametrize(("n", "length"), [(1, 1), (2, 2), (5, 2), ("null", 2)])
def test_a_number_of_samples_takes_the_first(configured, gtsegs, n, length):
    data = open_dataset(configured(*PAPER, *gtsegs, f"data.n={n}").data)
    assert len(data) == len(data.ids) == length
    assert [sample.id for sample in data] == ["n02123045_0", "n02084071_1"][:length]
    with pytest.raises(IndexError):
        data[length]


def test_every_file_that_is_missing_is_told_at_once(configured, tmp_path):
    files = [f"data.path={tmp_path / 'no.mat'}", f"data.words={tmp_path / 'no.json'}"]
    path, words = missing_data(configured(*PAPER, *files).data)
    assert str(tmp_path / "no.mat") in path and URL in path
    assert str(tmp_path / "no.json") in words


def test_nothing_is_missing_where_everything_is_there(configured, gtsegs):
    assert missing_data(configured(*PAPER, *gtsegs).data) == missing_data(configured().data) == []


def test_one_missing_file_is_told_alone(configured, gtsegs, tmp_path):
    (sentence,) = missing_data(configured(*PAPER, gtsegs[0], f"data.words={tmp_path / 'no.json'}").data)
    assert str(tmp_path / "no.json") in sentence
    Path(gtsegs[0].removeprefix("data.path=")).unlink()
    (sentence,) = missing_data(configured(*PAPER, *gtsegs).data)
    assert URL in sentence
