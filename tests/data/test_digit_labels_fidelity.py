"""Every pixel of a scene has the class of what is painted there, as the caption and the colours tell."""

from __future__ import annotations

import re

import numpy as np
import pytest

from attention_chains.data.digit_labels import DigitLabels
from attention_chains.data.digit_scenes import COLOURS, DigitScenes, make_scene
from attention_chains.data.errors import DataError

N = 60


@pytest.fixture(scope="module")
def scenes() -> list:
    return list(DigitLabels("test", N, seed=3))


@pytest.fixture(scope="module")
def captions() -> list[list[list[str]]]:
    """[[colour, digit], ...] of each scene, read from its caption."""
    found = (make_scene("test", 3, index, "mixed").caption for index in range(N))
    return [[name.split() for name in re.findall(r"a (\w+ \w+)(?: and|$)", caption)] for caption in found]


def test_the_classes_are_background_and_the_ten_digits():
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert DigitLabels(n=1).classes == ["background", *digits]


def test_labels_are_the_digits_of_the_caption_and_background(scenes, captions):
    numbers = {name: number for number, name in enumerate(DigitLabels.classes)}
    for scene, caption in zip(scenes, captions, strict=True):
        assert scene.image.shape == (64, 64, 3) and scene.labels.dtype == np.int64
        assert set(np.unique(scene.labels)) == {0, *(numbers[digit] for _, digit in caption)}
    assert {len(caption) for caption in captions} == {1, 2}
    assert {label for scene in scenes for label in np.unique(scene.labels)} == set(range(11))


def test_labelled_pixels_have_the_colour_of_the_caption(scenes, captions):
    names, inks = list(COLOURS), np.array(list(COLOURS.values()))
    for scene, caption in zip(scenes, captions, strict=True):
        for colour, digit in caption:
            ink = np.median(scene.image[scene.labels == DigitLabels.classes.index(digit)], axis=0)
            assert names[np.abs(inks - ink).sum(axis=1).argmin()] == colour


def test_the_first_digit_is_the_target_of_the_same_scene_for_zero_shot_segmentation(scenes):
    for scene, sample in zip(scenes, DigitScenes("test", N, seed=3, objects="mixed"), strict=True):
        assert scene.id == sample.id and (scene.image == sample.image).all()
        assert (scene.labels[sample.mask] == DigitLabels.classes.index(sample.meta["digit"])).all()


def test_a_scene_depends_on_split_seed_and_number_alone(scenes):
    again = DigitLabels("test", N + 5, seed=3)
    assert (again[17].labels == scenes[17].labels).all() and (again[17].image == scenes[17].image).all()
    assert again.ids[:N] == [scene.id for scene in scenes]
    others = [DigitLabels("train", N, 3), DigitLabels("test", N, 4)]
    assert all((other[17].image != scenes[17].image).any() for other in others)
    prints = {data.fingerprint for data in (again, *others, DigitScenes("test", N, 3, objects="mixed"))}
    assert len(prints) == 4


@pytest.mark.parametrize("wrong", [{"split": "val"}, {"n": 0}, {"n": None}, {"seed": None}])
def test_what_cannot_be_made_is_refused(wrong):
    with pytest.raises(DataError, match=r"data\.(split|n|seed) is"):
        DigitLabels(**{"split": "test", "n": 2, "seed": 0, **wrong})


def test_there_is_nothing_beyond_the_end():
    with pytest.raises(IndexError):
        DigitLabels(n=2)[2]
