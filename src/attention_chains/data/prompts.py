"""Texts to generate images from: one for all images, or a file with one a line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attention_chains.data.errors import DataError


@dataclass(frozen=True)
class Prompt:
    """An image to generate.

    Attributes
    ----------
    id : str
        Name within the data set; decides the noise that the image starts from.
    prompt : str
        What it is to show; "" for no text.
    """

    id: str
    prompt: str


class Prompts:
    """`n` prompts: a single one, or a file's lines in order and again from the first.

    Parameters
    ----------
    path
        File with one prompt a line, UTF-8; None for a single prompt.
    prompt
        The single prompt; without effect where there is a file.
    n
        Number of images; None takes every line of the file once.
    seed
        Which images of these prompts: any but 0 is part of their ids, and so of their noise.

    Raises
    ------
    DataError
        The file cannot be read or has an empty line, there is no prompt, or nobody said how many images.
    """

    def __init__(self, path: str | Path | None, prompt: str | None = "", n: int | None = None, seed: int | None = 0):
        self._prompts = [_single(prompt)] if path is None else _read(Path(path))
        if n is None and path is None:
            raise DataError("data.n is null: one prompt gives any number of images, so say how many, at least one.")
        self._n = len(self._prompts) if n is None else n
        if self._n < 1:
            raise DataError(f"data.n is {n}: generate at least one image.")
        self._series = f"{seed}-" if seed else ""

    def __len__(self) -> int:
        """Count the images."""
        return self._n

    def __getitem__(self, index: int) -> Prompt:
        """Give one prompt; a longer set begins with the prompts of a shorter one."""
        number = range(self._n)[index]
        return Prompt(f"{self._series}{number:05d}", self._prompts[number % len(self._prompts)])

    @cached_property
    def ids(self) -> list[str]:
        """One name an image: "00000", "00001", ..."""
        return [f"{self._series}{number:05d}" for number in range(self._n)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the prompts and the seed; how many images are asked for is no part of it."""
        return hashlib.sha256("\n".join(["prompts", self._series, *self._prompts]).encode()).hexdigest()


def _single(prompt: str | None) -> str:
    if prompt is None:
        raise DataError(
            'data.prompt is null and data.path names no file of prompts: set one of them (data.prompt="" is no text).'
        )
    return prompt


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"The prompts in {path} cannot be read ({reason}): set data.path to a text file with one prompt a line."
        ) from error
    prompts = [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
    empty = [number for number, prompt in enumerate(prompts, 1) if not prompt]
    if empty or not prompts:
        where = f"is empty in line {empty[0]}" if empty else "is empty"
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(f"The file of prompts {path} {where}{more}: write one prompt in each line, or delete the line.")
    return prompts
