"""The miniatures' own tokenizers: a T5 (unigram) and a CLIP (byte-pair) one for the captions of digit scenes."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from transformers import CLIPTokenizer, T5Tokenizer

from attention_chains.data.digit_scenes import COLOURS, DIGITS

WORDS = ("photo", "of", "and", "number", *COLOURS, *DIGITS)


def t5_tokenizer(length: int) -> T5Tokenizer:
    """A T5 tokenizer that knows the captions' words as one piece each and spells any other word.

    Like the original's, it splits the article "a" into a bare word start and the letter, so that a word's index counted
    by the CLIP tokenizer is off by one here as it is there (protocol 1.3).
    """
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -2.0) for word in WORDS]
    letters = [("▁", -4.0), *((letter, -6.0) for letter in string.ascii_lowercase)]
    return T5Tokenizer(vocab=special + words + letters, extra_ids=0, model_max_length=length)


def clip_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIP tokenizer that learned its merges from the captions' words: each is one piece, any other is spelled."""
    return _byte_pair_tokenizer(string.ascii_lowercase, length)


def open_clip_tokenizer(length: int) -> CLIPTokenizer:
    """Make the same for captions that may end in a full stop."""
    return _byte_pair_tokenizer(f"{string.ascii_lowercase}.", length)


def _byte_pair_tokenizer(marks: str, length: int) -> CLIPTokenizer:
    merges = learn_merges(WORDS)
    ends = [f"{mark}</w>" for mark in marks]
    pieces = ["<|startoftext|>", "<|endoftext|>", *marks, *ends, *map("".join, merges)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until each word is one piece: the most frequent pair first, then in order of the alphabet."""
    splits, merges = [[*word[:-1], f"{word[-1]}</w>"] for word in words], []
    while pairs := Counter(pair for split in splits for pair in pairwise(split)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        splits = [_merge(split, merges[-1]) for split in splits]
    return merges


def _merge(split: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in split:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
