"""Digit scenes as a classification set: the scenes of one digit, each with the digit that is painted on it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attention_chains.data import digit_scenes
from attention_chains.data.digit_classes import DigitClasses
from attention_chains.data.digit_scenes import DIGITS, DigitScenes, make_scene
from attention_chains.data.errors import DataError


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_those_of_the_scenes(split):
    data = DigitClasses(split, 60, seed=4)
    assert data.classes == list(DIGITS) and len(data) == len(data.ids) == len(data.labels) == 60
    for index, sample in enumerate(data):
        scene = make_scene(split, 4, index, "one")
        assert np.array_equal(sample.image, scene.image) and len(scene.objects) == 1
        assert sample.class_name == scene.objects[0].digit == DIGITS[sample.label]
        assert (sample.id, sample.label) == (data.ids[index], data.labels[index])


def test_the_label_is_of_the_handwritten_digit_that_lies_under_the_mask(monkeypatch):
    drawn = []
    original = digit_scenes._glyph

    def glyph(split, side, rng, taken):
        alpha, name = original(split, side, rng, taken)
        drawn.append(alpha)
        return alpha, name

    data = DigitClasses("test", 20)
    monkeypatch.setattr(digit_scenes, "_glyph", glyph)
    images, numbers = digit_scenes.handwritten_digits("test")
    for index in range(20):
        label, alpha = data[index].label, drawn[-1]
        large = [
            Image.fromarray(image).resize(alpha.shape, Image.Resampling.BICUBIC) for image in images[numbers == label]
        ]
        assert any(np.array_equal(((np.asarray(each) - 0.3) * 3).clip(0, 1), alpha) for each in large)


def test_the_splits_share_no_image():
    train, test = ({sample.image.tobytes() for sample in DigitClasses(split, 100)} for split in ("train", "test"))
    assert len(train) == len(test) == 100 and train.isdisjoint(test)
    assert set(DigitClasses("train", 100).ids).isdisjoint(DigitClasses("test", 100).ids)


def test_every_digit_occurs_about_equally_often():
    counts = np.bincount(DigitClasses("test", 1000).labels, minlength=10)
    assert counts.min() > 60 and counts.max() < 150


@given(order=st.permutations(range(6)), split=st.sampled_from(["train", "test"]), seed=st.integers(0, 2**31))
def test_the_order_of_access_does_not_matter(order, split, seed):
    straight, shuffled = list(DigitClasses(split, 6, seed)), DigitClasses(split, 6, seed)
    for index in order:
        sample = shuffled[index]
        assert (sample.id, sample.label) == (straight[index].id, straight[index].label)
        assert np.array_equal(sample.image, straight[index].image)


def test_a_longer_data_set_begins_with_the_shorter_one():
    short, long = DigitClasses(n=5), DigitClasses(n=9)
    assert short.ids == long.ids[:5] and short.labels == long.labels[:5] and short.fingerprint == long.fingerprint


def test_the_fingerprint_changes_with_split_and_seed_and_is_not_that_of_the_segmentation_set():
    prints = [DigitClasses().fingerprint, DigitClasses("train").fingerprint, DigitClasses(seed=1).fingerprint]
    assert len({*prints, DigitScenes().fingerprint}) == 4
    assert re.fullmatch("[0-9a-f]{64}", prints[0]) and prints[0] == DigitClasses().fingerprint


def test_indices_count_from_either_end_and_stop():
    data = DigitClasses(n=3)
    assert data[-1].id == data.ids[2]
    with pytest.raises(IndexError):
        data[3]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"split": "val"}, "data.split is 'val': choose one of train, test."),
        ({"n": None}, "data.n is None: .* at least one"),
        ({"n": 0}, "data.n is 0: .* at least one"),
        ({"seed": None}, "data.seed is None: say which sequence of scenes"),
        ({"seed": -1}, "data.seed is -1: say which sequence of scenes"),
    ],
)
def test_a_set_that_cannot_be_made_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(DataError, match=sentence):
        DigitClasses(**settings)
