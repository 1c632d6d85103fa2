"""The miniatures' own tokenizers: a T5 (unigram) and a CLIP (byte-pair) one for the captions of digit scenes."""

from __future__ import annotations

import json
import string

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
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
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        end_of_word_suffix="</w>",
        initial_alphabet=list(string.ascii_lowercase),
        show_progress=False,
    )
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = Whitespace()
    learner.train_from_iterator([*WORDS, *string.ascii_lowercase], trainer)
    model = json.loads(learner.to_str())["model"]
    return CLIPTokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], model_max_length=length
    )
