"""Prompts come in the file's order, again from the first, under ids that never change."""

from __future__ import annotations

import pytest

from attention_chains.data.errors import DataError
from attention_chains.data.prompts import Prompt, Prompts


@pytest.fixture
def write(tmp_path):
    def written(text, encoding="utf-8"):
        path = tmp_path / "prompts.txt"
        path.write_bytes(text.encode(encoding))
        return path

    return written


def test_one_prompt_serves_all_images():
    prompts = Prompts(None, "", 3)
    assert list(prompts) == [Prompt("00000", ""), Prompt("00001", ""), Prompt("00002", "")]
    assert prompts.ids == [prompt.id for prompt in prompts] and len(prompts) == 3


def test_lines_are_taken_in_order_and_again_from_the_first(write):
    path = write("a red three\nzwei blaue Äpfel, \N{LINE SEPARATOR} heute\n")
    found = [prompt.prompt for prompt in Prompts(path, "unused", 5)]
    first, second = "a red three", "zwei blaue Äpfel, \N{LINE SEPARATOR} heute"
    assert found == [first, second, first, second, first]
    assert [prompt.prompt for prompt in Prompts(path, None)] == [first, second]


@pytest.mark.parametrize("text", ["one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n", "\ufeffone\ntwo\n", " one \n\ttwo\n"])
def test_line_ends_marks_and_spaces_do_not_matter(write, text):
    prompts = Prompts(write(text), None)
    assert [prompt.prompt for prompt in prompts] == ["one", "two"]
    assert prompts.fingerprint == Prompts(write("one\ntwo\n"), None).fingerprint


def test_a_longer_set_begins_with_the_shorter(write):
    path = write("one\ntwo\n")
    assert list(Prompts(path, None, 7))[:3] == list(Prompts(path, None, 3))


def test_the_fingerprint_follows_the_prompts_and_the_seed(write):
    path = write("one\ntwo\n")
    sets = [
        Prompts(path, None, 2),
        Prompts(write("two\none\n"), None, 2),
        Prompts(None, "one", 2),
        Prompts(None, "", 2),
        Prompts(None, "one", 2, seed=1),
    ]
    assert len({each.fingerprint for each in sets}) == len(sets)
    assert Prompts(None, "one", 2).fingerprint == Prompts(None, "one", 2, seed=0).fingerprint


def test_another_seed_names_other_images():
    assert Prompts(None, "one", 2, seed=3).ids == ["3-00000", "3-00001"]


@pytest.mark.parametrize(("text", "where"), [("one\n\ntwo\n", "line 2"), ("\none\n  \n", "line 1 and 1 more")])
def test_an_empty_line_is_named_by_its_number(write, text, where):
    with pytest.raises(DataError, match=f"is empty in {where}: write one prompt in each line, or delete"):
        Prompts(write(text), None, 3)


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_is_refused(write, text):
    with pytest.raises(DataError, match="is empty"):
        Prompts(write(text), None, 3)


def test_a_file_that_is_not_there_or_is_no_text_is_refused(write, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.txt cannot be read \(No such file or directory\): set data.path"):
        Prompts(tmp_path / "nowhere.txt", None, 3)
    with pytest.raises(DataError, match=r"\(it is not UTF-8 text\)"):
        Prompts(write("äöü", "latin-1"), None, 3)


@pytest.mark.parametrize("n", [None, 0])
def test_how_many_images_of_a_single_prompt_must_be_said(n):
    with pytest.raises(DataError, match=r"data\.n is (null|0)"):
        Prompts(None, "one", n)


def test_no_prompt_at_all_is_refused():
    with pytest.raises(DataError, match=r"data\.prompt is null and data\.path names no file"):
        Prompts(None, None, 3)


def test_beyond_the_last_image_there_is_none():
    with pytest.raises(IndexError):
        Prompts(None, "one", 2)[2]
