"""Names of the classes that a classifier tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open_clip import IMAGENET_CLASSNAMES

from attention_chains.data.digit_scenes import DIGITS
from attention_chains.models.errors import AssetError

LISTS = {"imagenet": tuple(IMAGENET_CLASSNAMES), "digits": tuple(DIGITS)}


def class_names(classes: str | Sequence[str]) -> list[str]:
    """Names in the order of the labels.

    Parameters
    ----------
    classes
        "imagenet": the 1000 cleaned names of OpenAI, as open_clip lists them (protocol 9, question 25); "digits": zero
        to nine; a file with one name a line; or the names.

    Raises
    ------
    AssetError
        There is no such list, or one of its names is empty.
    """
    names = _read(classes) if isinstance(classes, str) else list(classes)
    if not names or not all(name.strip() for name in names):
        raise AssetError(f"model.classes ({_what(classes)}) has none or an empty name: give one to each class.")
    return names


def _read(classes: str) -> list[str]:
    if classes in LISTS:
        return list(LISTS[classes])
    try:
        return Path(classes).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AssetError(
            f"model.classes is '{classes}', which is neither {' nor '.join(LISTS)} nor a text file: name one of them."
        ) from error


def _what(classes: str | Sequence[str]) -> str:
    return classes if isinstance(classes, str) else f"a list of {len(classes)}"
