"""The miniatures are taught the words of digit scenes, each of them one token of both tokenizers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.data.digit_scenes import COLOURS, DIGITS, make_scene

SCENES = [make_scene("train", 0, index) for index in range(40)]


@pytest.fixture(scope="module")
def t5(scripts):
    from minis.tokenizers import t5_tokenizer

    return t5_tokenizer(16)


@pytest.fixture(scope="module")
def clip(scripts):
    from minis.tokenizers import clip_tokenizer

    return clip_tokenizer(24)


def captions(scene):
    from minis.flux import captions

    return captions(scene)


def test_every_word_of_every_caption_is_one_piece_of_both_tokenizers(t5, clip):
    words = {word for scene in SCENES for text in captions(scene) for word in text.split()} - {"a"}
    assert words >= {*COLOURS, *DIGITS, "photo", "of", "and", "number"}
    for word in words:
        assert t5.tokenize(word) == [f"▁{word}"] and clip.tokenize(word) == [f"{word}</w>"]


def test_the_article_is_two_pieces_of_t5_and_one_of_clip(t5, clip):
    assert t5.tokenize("a") == ["▁", "a"] and clip.tokenize("a") == ["a</w>"]


@given(word=st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12))
def test_any_other_word_is_spelled_without_an_unknown_token(t5, clip, word):
    assert "".join(t5.tokenize(word)).replace("▁", "") == word
    assert "".join(clip.tokenize(word)).replace("</w>", "") == word
    assert t5.unk_token_id not in t5(word).input_ids


def test_every_caption_fits_the_text_sequences(t5, clip):
    from minis.flux import CLIP_LENGTH, TEXT_LENGTH

    for scene in SCENES:
        for text in captions(scene):
            assert len(t5(text).input_ids) <= TEXT_LENGTH and len(clip(text).input_ids) <= CLIP_LENGTH


def test_the_captions_of_a_scene_are_in_full_by_class_by_colour_and_empty():
    for scene in SCENES:
        full, by_class, by_colour, empty = captions(scene)
        names = [(item.colour, item.digit) for item in scene.objects]
        assert full == "a photo of " + " and ".join(f"a {colour} {digit}" for colour, digit in names)
        assert by_class == "a photo of " + " and ".join(f"a {digit}" for _, digit in names)
        assert by_colour == "a photo of " + " and ".join(f"a {colour} number" for colour, _ in names)
        assert empty == ""
