"""A digit scene is a function of split, seed and number, whoever asks for it, when and where."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.data.digit_scenes import DigitScenes

DIGEST = """
import hashlib
from attention_chains.data.digit_scenes import DigitScenes
content = hashlib.sha256()
for sample in DigitScenes("test", 6, seed=3, objects="mixed"):
    content.update(sample.image.tobytes() + sample.mask.tobytes() + sample.prompt.encode() + sample.word.encode())
print(content.hexdigest())
"""


def same(first, second) -> bool:
    texts = all(getattr(first, name) == getattr(second, name) for name in ("id", "word", "prompt", "meta"))
    return texts and np.array_equal(first.image, second.image) and np.array_equal(first.mask, second.mask)


@given(order=st.permutations(range(6)), split=st.sampled_from(["train", "test"]), seed=st.integers(0, 2**31))
def test_the_order_of_access_does_not_matter(order, split, seed):
    straight = list(DigitScenes(split, 6, seed, objects="mixed"))
    shuffled = DigitScenes(split, 6, seed, objects="mixed")
    assert all(same(shuffled[index], straight[index]) for index in order)


def test_a_longer_data_set_begins_with_the_shorter_one():
    short, long = DigitScenes(n=3), DigitScenes(n=7)
    assert short.ids == long.ids[:3] and short.fingerprint == long.fingerprint
    assert all(same(short[index], long[index]) for index in range(3))


def test_another_process_makes_the_same_bytes():
    here = hashlib.sha256()
    for sample in DigitScenes("test", 6, seed=3, objects="mixed"):
        here.update(sample.image.tobytes() + sample.mask.tobytes() + sample.prompt.encode() + sample.word.encode())
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert there.strip() == here.hexdigest()


@pytest.mark.parametrize("settings", [{"seed": 1}, {"split": "train"}])
def test_another_seed_or_split_makes_other_images(settings):
    first, second = DigitScenes(n=20), DigitScenes(**{"n": 20, **settings})
    assert not any(np.array_equal(first[index].image, second[index].image) for index in range(20))


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"split": "train"}, {"word": "digit"}, {"prompt": "a {word}"}, {"objects": "mixed"}]
)
def test_the_fingerprint_changes_with_whatever_changes_a_sample(settings):
    first = DigitScenes().fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first) and DigitScenes().fingerprint == first
    assert DigitScenes(**settings).fingerprint != first


def test_the_fingerprint_changes_with_a_pixel_of_its_sources(monkeypatch):
    first = DigitScenes().fingerprint
    from attention_chains.data import digit_scenes

    photographs = [photograph.copy() for photograph in digit_scenes._photographs("test")]
    photographs[-1][0, 0, 0] ^= 1
    monkeypatch.setattr(digit_scenes, "_photographs", lambda split: tuple(photographs))
    assert DigitScenes().fingerprint != first
