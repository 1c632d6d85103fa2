"""A data set of digit scenes that cannot be made is refused in one sentence that names the key."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.data.errors import DataError

CHOICES = {"split": ("train", "test"), "word": ("colour", "digit"), "objects": ("one", "two", "mixed", "portrait")}


def refusal(**settings) -> str:
    with pytest.raises(DataError) as refused:
        DigitScenes(**settings)[0]
    return str(refused.value)


@given(key=st.sampled_from(list(CHOICES)), value=st.none() | st.text("abcdefghijklmnopqrstuvwxyz", max_size=8))
def test_a_choice_that_does_not_exist_is_told_those_that_do(key, value):
    assume(value not in CHOICES[key])
    assert refusal(**{key: value}) == f"data.{key} is '{value}': choose one of {', '.join(CHOICES[key])}."


@given(n=st.none() | st.integers(max_value=0))
def test_no_scene_at_all_is_refused(n):
    assert refusal(n=n).startswith(f"data.n is {n}: ") and "at least one" in refusal(n=n)


@pytest.mark.parametrize("prompt", ["a {wrod}", "a {", "a {0}", "a {} {}", "a {word.x.y}"])
def test_a_prompt_that_cannot_be_filled_in_is_refused(prompt):
    assert f"data.prompt '{prompt}' is no template over {{caption}}" in refusal(prompt=prompt)


def test_a_prompt_without_the_word_is_refused_with_the_name_of_the_sample():
    sentence = refusal(prompt="a photo")
    assert sentence.startswith("Sample 'test-0-00000': the word '") and "is not in the prompt 'a photo'" in sentence


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_a_scene_beyond_the_end_is_an_index_error(index):
    with pytest.raises(IndexError):
        DigitScenes(n=3)[index]
