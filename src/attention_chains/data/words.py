"""Class words: which word of everyday language names a WordNet category (protocol 1.1).

The map is the user's own file and is never part of this project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from attention_chains.data.errors import DataError

WNID = re.compile(r"[nvars]\d{8}")  # part of speech and WordNet 3.0 offset, e.g. n02123045


def read_words(path: str | Path, lemmas: str | Path | None = None) -> dict[str, str]:
    """Read the map from WordNet ids to class words.

    Parameters
    ----------
    path
        A JSON file, either `{"n02123045": "cat", ...}`, or ConceptAttention's `{"categories": {"Egyptian cat":
        "cat", ...}}`, whose keys are the first lemmas of the synsets.
    lemmas
        Needed with the second form only: the first lemma of every WordNet id, as JSON `{"n02123045": "tabby",
        ...}` or as text with one id and its comma-separated lemmas a line (ImageNet's `words.txt`). Underscores
        count as spaces.

    Returns
    -------
    dict
        WordNet id to word.

    Raises
    ------
    DataError
        When a file is missing or has another form, or `lemmas` is missing.
    """
    content = _read_json(Path(path))
    if "categories" not in content:
        return _checked_map(content, Path(path))
    if lemmas is None:
        raise DataError(
            f"{path} maps lemma names, not WordNet ids: set data.lemmas to a file with the lemmas of every WordNet id, "
            "such as ImageNet's words.txt (a line 'n02123045\ttabby, tabby cat' each)."
        )
    categories = _checked_strings(content["categories"], Path(path))
    words = {_spaced(lemma): word for lemma, word in categories.items()}
    return {wnid: words[lemma] for wnid, lemma in _read_lemmas(Path(lemmas)).items() if lemma in words}


def choose_words(wnids: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """Take the words of the given WordNet ids out of a map.

    Parameters
    ----------
    wnids
        WordNet ids, in any order, with repetitions.
    words
        WordNet id to word.

    Returns
    -------
    dict
        The part of `words` that is needed, sorted by id.

    Raises
    ------
    DataError
        Naming all ids without a word at once.
    """
    needed = sorted(set(wnids))
    missing = [wnid for wnid in needed if wnid not in words]
    if missing:
        raise DataError(
            f"No class word for {len(missing)} of {len(needed)} WordNet ids: {', '.join(missing)}; add them to the map."
        )
    return {wnid: words[wnid] for wnid in needed}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"The words in {path} cannot be read ({reason}): check data.words, a JSON map from WordNet ids to words."
        ) from error


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON (line {error.lineno}: {error.msg}): repair the file.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object: write it as {{'n02123045': 'cat', ...}}.")
    return content


def _read_lemmas(path: Path) -> dict[str, str]:
    """Read the first lemma of every WordNet id, with spaces."""
    if path.suffix == ".json":
        names = _checked_map(_read_json(path), path)
    else:
        lines = (line.split(maxsplit=1) for line in _read_text(path).splitlines() if line.strip())
        names = _checked_map({wnid: "".join(name) for wnid, *name in lines}, path)
    return {wnid: _spaced(name.split(",")[0]) for wnid, name in names.items()}


def _checked_map(content: object, path: Path) -> dict[str, str]:
    words = _checked_strings(content, path)
    odd = [key for key in words if not WNID.fullmatch(key)]
    if odd:
        raise DataError(f"{path} has the key '{odd[0]}', which is no WordNet id such as n02123045: repair it.")
    return words


def _checked_strings(content: object, path: Path) -> dict[str, str]:
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} holds no map from names to words: write it as {{'n02123045': 'cat', ...}}.")
    odd = [key for key, word in content.items() if not isinstance(word, str) or not word.strip()]
    if odd:
        raise DataError(f"{path} gives no word for '{odd[0]}': write a word in quotes.")
    return content


def _spaced(name: str) -> str:
    return name.replace("_", " ").strip()
