"""From a word of the prompt to the text tokens a chain starts from (protocol 1.3)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from attention_chains.data.errors import DataError

BLANK = "▁"  # SentencePiece's mark of a word's start, a token of its own before a word it cannot join


def word_distribution(tokenizer: Any, prompt: str, word: str, length: int) -> Tensor:
    """Uniform distribution over the pieces of `word` in `prompt`, by the model's own T5 tokenizer.

    Parameters
    ----------
    tokenizer
        A fast transformers tokenizer.
    prompt, word
        The word is looked for as a whole word or phrase; its first occurrence counts.
    length
        Length of the text sequence, tokens.

    Returns
    -------
    Tensor
        (length,) fp32, sums to one. Pieces that are only a word start hold no letter of the word and are left out.

    Raises
    ------
    DataError
        When the word is not in the prompt, or lies beyond the text sequence.
    """
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt)
    if not word or not found:
        raise DataError(f"The word '{word}' is not in the prompt '{prompt}': name one of the prompt's words.")
    encoded = tokenizer(prompt, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    spans = encoded["offset_mapping"]
    inside = [
        index
        for index, (piece, (first, last)) in enumerate(zip(pieces, spans, strict=True))
        if first < found.end() and last > found.start() and piece != BLANK
    ]
    return _uniform(inside, length, word, prompt)


def clip_word_distribution(tokenizer: Any, prompt: str, word: str, length: int) -> Tensor:
    """The official code's rule: the word's index among the *CLIP* tokens, used in the T5 sequence.

    It misses the word wherever the two tokenizers split the text before it differently: T5 splits "a" in two, so in
    "a cat" this rule starts from the article (protocol 1.3).

    Raises
    ------
    DataError
        When no single CLIP token equals the word, where the official code stops too.
    """
    pieces = [piece.removesuffix("</w>") for piece in tokenizer.tokenize(prompt)]
    if word not in pieces:
        raise DataError(f"CLIP has no single token for '{word}' in '{prompt}': use task.word_index=t5 for this word.")
    return _uniform([pieces.index(word)], length, word, prompt)


def _uniform(tokens: list[int], length: int, word: str, prompt: str) -> Tensor:
    if not tokens or tokens[-1] >= length - 1:  # the last token of a text that is cut is the end mark
        raise DataError(
            f"The word '{word}' lies beyond the {length} text tokens of '{prompt}': raise model.text_length."
        )
    start = torch.zeros(length)
    start[tokens] = 1 / len(tokens)
    return start
