"""Class words are read from either form of map; what is missing or malformed is said in one sentence."""

from __future__ import annotations

import json

import pytest

from attention_chains.data.errors import DataError
from attention_chains.data.words import choose_words, read_words

CATEGORIES = {"categories": {"Egyptian cat": "cat", "sea_lion": "lion", "coat button": "coat"}}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_a_map_of_wordnet_ids_is_read_as_it_is(write):
    words = {"n02123045": "cat", "n02084071": "dog"}
    assert read_words(write("words.json", words)) == words


@pytest.mark.parametrize(
    ("name", "lemmas"),
    [
        ("lemmas.json", {"n02124075": "Egyptian_cat", "n02077923": "sea_lion", "n03057021": "cloak"}),
        ("words.txt", "n02124075\tEgyptian cat\nn02077923\tsea lion, eared seal\n\nn03057021\tcloak, coat button\n"),
        ("mapping.txt", "n02124075 Egyptian cat\nn02077923 sea_lion, eared seal\n"),
    ],
)
def test_a_map_of_lemmas_is_joined_with_the_lemmas_of_ids(write, name, lemmas):
    words = read_words(write("map.json", CATEGORIES), write(name, lemmas))
    assert words == {"n02124075": "cat", "n02077923": "lion"}


def test_a_map_of_lemmas_alone_asks_for_the_second_file(write):
    with pytest.raises(DataError, match=r"set data\.lemmas to a file with the lemmas"):
        read_words(write("map.json", CATEGORIES))


def test_only_the_words_in_use_are_chosen_in_one_order():
    words = {"n00000003": "c", "n00000001": "a", "n00000002": "b"}
    chosen = choose_words(["n00000002", "n00000001", "n00000002"], words)
    assert list(chosen.items()) == [("n00000001", "a"), ("n00000002", "b")]


def test_all_ids_without_a_word_are_named_at_once():
    with pytest.raises(DataError, match="No class word for 2 of 3 WordNet ids: n00000001, n00000003;"):
        choose_words(["n00000003", "n00000002", "n00000001"], {"n00000002": "b"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"n02123045": "cat",', "is not JSON (line 1"),
        ("[1, 2]", "holds no JSON object"),
        ({}, "holds no map"),
        ({"categories": ["cat"]}, "holds no map"),
        ({"n02123045": 3}, "gives no word for 'n02123045'"),
        ({"n02123045": " "}, "gives no word for 'n02123045'"),
        ({"tabby": "cat"}, "has the key 'tabby', which is no WordNet id"),
    ],
)
def test_a_malformed_map_is_refused_by_name(write, content, problem):
    path, lemmas = write("words.json", content), write("lemmas.json", {"n02123045": "tabby"})
    with pytest.raises(DataError) as refused:
        read_words(path, lemmas)
    assert str(refused.value).startswith(str(path)) and problem in str(refused.value)


@pytest.mark.parametrize("content", ["tabby cat\n", "n02123045\n", ""])
def test_malformed_lemmas_are_refused_by_name(write, content):
    lemmas = write("words.txt", content)
    with pytest.raises(DataError) as refused:
        read_words(write("map.json", CATEGORIES), lemmas)
    assert str(refused.value).startswith(str(lemmas))


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere\.json cannot be read \(No such file or directory\): check data\.words"
    ):
        read_words(tmp_path / "nowhere.json")


def test_a_map_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "words.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_words(path)
