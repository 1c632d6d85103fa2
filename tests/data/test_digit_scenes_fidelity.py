"""Digit scenes are what they say: splits apart, exact masks, captions that name what is there."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from attention_chains.data import digit_scenes
from attention_chains.data.digit_scenes import (
    COLOURS,
    DIGITS,
    PHOTOGRAPHS,
    SIDE,
    DigitScenes,
    handwritten_digits,
    make_scene,
)

SCENES = [make_scene("test", 0, index) for index in range(200)]  # one and two objects mixed


# Splits


def test_the_splits_share_no_digit_and_together_use_each_once():
    train, test = ({image.tobytes() for image in handwritten_digits(split)[0]} for split in ("train", "test"))
    assert train.isdisjoint(test)
    assert sum(len(handwritten_digits(split)[0]) for split in ("train", "test")) == len(load_digits().images)


def test_both_splits_have_every_class():
    assert all(set(handwritten_digits(split)[1]) == set(range(10)) for split in ("train", "test"))


@given(width=st.integers(1, 4000))
def test_the_splits_share_no_column_of_a_photograph(width):
    columns = np.arange(width)[None]  # a photograph whose pixels say where they are
    used = {
        split: {(name, int(x)) for name, first, last in parts for x in digit_scenes._part(columns, first, last)[0]}
        for split, parts in PHOTOGRAPHS.items()
    }
    assert used["train"].isdisjoint(used["test"])


def test_the_photographs_of_a_split_are_the_parts_that_are_named():
    for split, parts in PHOTOGRAPHS.items():
        for photograph, (name, first, last) in zip(digit_scenes._photographs(split), parts, strict=True):
            assert photograph.dtype == np.uint8 and photograph.shape[2] == 3, name
            assert abs(photograph.shape[1] / digit_scenes._read_photograph(name).shape[1] - (last - first)) < 0.01


# Images and masks


def repainted(monkeypatch, index, opacity):
    """The scene with its digits painted in other opacities: the random numbers stay the same."""
    original = digit_scenes._glyph

    def glyph(split, side, rng, taken):
        alpha, name = original(split, side, rng, taken)
        return opacity(alpha), name

    with monkeypatch.context() as patch:
        patch.setattr(digit_scenes, "_glyph", glyph)
        return make_scene("test", 0, index).image.astype(float)


@pytest.mark.parametrize("index", range(12))
def test_a_mask_is_where_ink_covers_more_than_half(monkeypatch, index):
    scene = SCENES[index]
    bare = repainted(monkeypatch, index, np.zeros_like)
    solid = repainted(monkeypatch, index, np.ones_like)
    contrast = np.abs(solid - bare).max(-1)
    clear = contrast > 20  # elsewhere ink and background look alike, and rounding hides the opacity
    channel = np.abs(solid - bare).argmax(-1)[..., None]
    shown = [np.take_along_axis(image, channel, -1)[..., 0] for image in (scene.image.astype(float), bare, solid)]
    opacity = (shown[0] - shown[1])[clear] / (shown[2] - shown[1])[clear]
    mask = np.any([item.mask for item in scene.objects], axis=0)[clear]
    assert clear.any() and mask.any()
    assert (opacity[mask] > 0.5 - 1 / 20).all() and (opacity[~mask] < 0.5 + 1 / 20).all()


@pytest.mark.parametrize("index", range(12))
def test_nothing_is_painted_outside_the_boxes_and_masks_lie_within(monkeypatch, index):
    scene = SCENES[index]
    bare = repainted(monkeypatch, index, np.zeros_like)
    boxes = (repainted(monkeypatch, index, np.ones_like) != bare).any(-1)
    painted = (scene.image != bare).any(-1)
    assert painted.any() and not (painted & ~boxes).any()
    assert not any((item.mask & ~boxes).any() for item in scene.objects)


def test_a_digit_is_of_the_class_that_is_named():
    images, labels = handwritten_digits("test")
    for seed in range(10):
        alpha, name = digit_scenes._glyph("test", 40, np.random.default_rng(seed), set())
        drawn = [
            ((np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BICUBIC)) - 0.3) * 3).clip(0, 1)
            for image in images
        ]
        found = [DIGITS[label] for label, image in zip(labels, drawn, strict=True) if np.array_equal(image, alpha)]
        assert found == [name]


def test_ink_has_the_colour_that_is_named():
    for scene in SCENES:
        for item in scene.objects:
            inks = np.array(list(COLOURS.values()))
            typical = np.median(scene.image[item.mask], axis=0)
            assert list(COLOURS)[np.abs(inks - typical).sum(-1).argmin()] == item.colour


def test_two_objects_differ_in_class_and_colour_and_do_not_touch():
    pairs = [scene.objects for scene in SCENES if len(scene.objects) == 2]
    assert all(first.digit != second.digit and first.colour != second.colour for first, second in pairs)
    assert not any((first.mask & second.mask).any() for first, second in pairs)


def test_two_in_five_scenes_have_two_objects():
    assert 0.3 < np.mean([len(scene.objects) == 2 for scene in SCENES]) < 0.5


@pytest.mark.parametrize(("objects", "count"), [("one", 1), ("two", 2), ("portrait", 1)])
def test_the_number_of_objects_can_be_chosen(objects, count):
    assert {len(make_scene("train", 0, index, objects).objects) for index in range(20)} == {count}


def test_the_object_covers_about_a_tenth_of_the_image():
    shares = [sample.mask.mean() for sample in DigitScenes(n=200)]
    assert 0.08 < np.mean(shares) < 0.16 and min(shares) > 0.01


def test_a_portrait_covers_about_a_quarter_of_a_calm_image():
    portraits = [make_scene("test", 0, index, "portrait") for index in range(100)]
    assert 0.15 < np.mean([scene.objects[0].mask.mean() for scene in portraits]) < 0.3
    for scene in portraits:
        row, column = np.nonzero(~scene.objects[0].mask[:-1] & ~scene.objects[0].mask[1:])
        pixels = scene.image.astype(int)
        assert np.median(np.abs(pixels[row + 1, column] - pixels[row, column])) <= 4


def test_every_class_and_colour_occurs():
    items = [item for scene in SCENES for item in scene.objects]
    assert {item.digit for item in items} == set(DIGITS) and {item.colour for item in items} == set(COLOURS)


# Words


def test_a_caption_names_every_object_by_colour_and_class():
    for scene in SCENES:
        named = re.findall(r"a (\w+) (\w+)", scene.caption.removeprefix("a photo of "))
        assert named == [(item.colour, item.digit) for item in scene.objects]


@pytest.mark.parametrize("objects", ["one", "two", "mixed", "portrait"])
@pytest.mark.parametrize(("word", "names"), [("colour", tuple(COLOURS)), ("digit", DIGITS)])
def test_the_word_names_the_object_of_the_mask_and_no_other(word, names, objects):
    for index, sample in enumerate(DigitScenes(n=30, word=word, objects=objects)):
        target = make_scene("test", 0, index, objects).objects[0]
        assert sample.word == getattr(target, word) and sample.word in names
        assert np.array_equal(sample.mask, target.mask) and sample.mask.shape == (SIDE, SIDE)
        assert sample.prompt.split().count(sample.word) == 1


def test_a_prompt_is_made_of_the_samples_own_words():
    sample = DigitScenes(n=1, prompt="{word}: {caption}, {colour} {digit}")[0]
    meta = sample.meta
    assert sample.prompt == f"{sample.word}: {meta['caption']}, {meta['colour']} {meta['digit']}"


def test_ids_are_distinct_and_cheap():
    data = DigitScenes(n=100_000, seed=7)
    assert len(set(data.ids)) == len(data) == 100_000
    assert data.ids[17] == data[17].id == "test-7-00017"
