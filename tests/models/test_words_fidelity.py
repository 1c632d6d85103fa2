"""A chain starts from the tokens of its word, by the model's own tokenizer or by the official code's rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.data.digit_scenes import COLOURS, DIGITS
from attention_chains.models.words import BLANK, clip_word_distribution, word_distribution

KNOWN = st.sampled_from(["photo", "of", "and", "number", "a", *COLOURS, *DIGITS])
SPELLED = st.text("bcdfghjklm", min_size=1, max_size=5)  # no vowel: none of the known words


def pieces_of(start, tokenizer, prompt) -> list[str]:
    """The pieces that a chain starts from, each with the same share."""
    chosen = start.nonzero()[:, 0].tolist()
    assert torch.equal(start[chosen], torch.full((len(chosen),), 1 / len(chosen)))
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    return [pieces[index] for index in chosen]


def test_a_word_of_one_piece_is_one_token(t5):
    start = word_distribution(t5, "a photo of a red three", "red", 16)
    assert start.shape == (16,) and start.dtype == torch.float32
    assert start.nonzero().tolist() == [[6]] and start[6] == 1


def test_the_article_is_two_pieces_and_starts_from_its_letter(t5):
    prompt = "a photo of a red three"
    assert t5.tokenize(prompt)[:2] == [BLANK, "a"]
    assert word_distribution(t5, prompt, "a", 16).nonzero().tolist() == [[1]]


def test_a_word_of_several_pieces_is_uniform_over_those_that_hold_a_letter(t5):
    prompt = "a photo of a cat"
    start = word_distribution(t5, prompt, "cat", 16)
    assert t5.tokenize(prompt)[6:] == [BLANK, "c", "a", "t"]
    assert start.nonzero()[:, 0].tolist() == [7, 8, 9]
    assert torch.equal(start[7:10], torch.full((3,), 1 / 3))


def test_a_phrase_is_uniform_over_the_pieces_of_its_words(t5):
    prompt = "a photo of a red three"
    assert pieces_of(word_distribution(t5, prompt, "red three", 16), t5, prompt) == ["▁red", "▁three"]


@pytest.mark.parametrize(("prompt", "index"), [("red and red", 0), ("a red and a red", 2), ("redred and red", 5)])
def test_the_first_occurrence_as_a_whole_word_counts(t5, prompt, index):
    assert word_distribution(t5, prompt, "red", 16).nonzero().tolist() == [[index]]


@given(before=st.lists(KNOWN | SPELLED, max_size=6), word=SPELLED, after=st.lists(KNOWN, max_size=6))
def test_whatever_the_prompt_the_pieces_spell_the_word(t5, before, word, after):
    prompt = " ".join([*before, word, *after])
    pieces = pieces_of(word_distribution(t5, prompt, word, 128), t5, prompt)
    assert "".join(pieces).replace(BLANK, "") == word


def test_after_one_article_the_clip_rule_starts_from_the_article(t5, clip):
    start = clip_word_distribution(clip, "a red three", "red", 16)
    assert start.nonzero().tolist() == [[1]] and pieces_of(start, t5, "a red three") == ["a"]
    assert word_distribution(t5, "a red three", "red", 16).nonzero().tolist() == [[2]]


def test_the_clip_rule_is_off_by_one_for_each_article_before_the_word(t5, clip):
    prompt = "a photo of a red three and a blue seven"
    for word, articles in {"photo": 1, "red": 2, "three": 2, "blue": 3, "seven": 3}.items():
        (own,), (official,) = (
            find(tokenizer, prompt, word, 16).nonzero()[:, 0].tolist()
            for find, tokenizer in ((word_distribution, t5), (clip_word_distribution, clip))
        )
        assert own - official == articles


def test_a_bare_word_has_the_same_index_by_both_rules(t5, clip):
    assert torch.equal(word_distribution(t5, "red", "red", 4), clip_word_distribution(clip, "red", "red", 4))


def test_the_adapter_takes_the_tokenizer_of_the_rule(flux, t5, clip):
    prompts, words = ["a photo of a red three", "a cat"], ["red", "cat"]
    own = flux.start(prompts, words)
    assert own.shape == (2, 16)
    for row, prompt, word in zip(own, prompts, words, strict=True):
        assert torch.equal(row, word_distribution(t5, prompt, word, 16))
    official = flux.start(prompts[:1], words[:1], rule="clip")
    assert torch.equal(official[0], clip_word_distribution(clip, prompts[0], words[0], 16))
