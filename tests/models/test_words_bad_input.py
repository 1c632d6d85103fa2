"""A word that no token stands for is refused in one sentence that says what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.data.errors import DataError
from attention_chains.models.words import clip_word_distribution, word_distribution

PROMPT = "a photo of a red three"  # 9 T5 tokens with the end mark; "red" is the seventh, "three" the eighth


def refusal(find, *arguments) -> str:
    with pytest.raises(DataError) as refused:
        find(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("word", ["blue", "re", "redd", "Red", "", "red blue"])
def test_a_word_that_is_not_in_the_prompt_is_named_with_the_prompt(t5, word):
    sentence = refusal(word_distribution, t5, PROMPT, word, 16)
    assert sentence == f"The word '{word}' is not in the prompt '{PROMPT}': name one of the prompt's words."


@given(length=st.integers(1, 16))
def test_a_word_is_taken_exactly_where_the_cut_text_still_holds_it(t5, length):
    kept = t5(PROMPT, max_length=length, truncation=True).input_ids
    if t5.convert_tokens_to_ids("▁red") in kept:
        assert word_distribution(t5, PROMPT, "red", length)[6] == 1
    else:
        sentence = refusal(word_distribution, t5, PROMPT, "red", length)
        assert f"'red' lies beyond the {length} text tokens" in sentence and "raise model.text_length" in sentence


def test_a_word_that_is_cut_in_the_middle_is_refused(t5):
    assert "lies beyond" in refusal(word_distribution, t5, "a photo of a cat", "cat", 10)
    assert word_distribution(t5, "a photo of a cat", "cat", 11).count_nonzero() == 3


@pytest.mark.parametrize("word", ["cat", "Red", "blue"])
def test_the_clip_rule_refuses_a_word_without_a_single_clip_token_and_names_the_other_rule(clip, word):
    sentence = refusal(clip_word_distribution, clip, "a red cat", word, 16)
    assert f"no single token for '{word}'" in sentence and "task.word_index=t5" in sentence
