"""Which images are taken: a list of names, in a file or behind a URL."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from attention_chains.data.errors import DataError

IMAGES = 2175
URL = (
    "https://raw.githubusercontent.com/google/diffseg/77ea59657da1be832c89e48085e04b97952e2a36/data/coco/"
    "Coco164kFull_Stuff_Coarse_7.txt"
)
SHA256 = "7c629734c88f1a74bba6311e01d4d9fe976df84f07cb4fc86452ce5116e51655"  # of the 2175 lines behind that URL
_SECONDS = 20  # for a server to answer
_log = logging.getLogger(__name__)


def read_ids(listed: str | Path, sha256: str | None = None) -> list[str]:
    """Read the names of the images of a data set, in the order of the list.

    Parameters
    ----------
    listed
        A file with a name of twelve digits a line, such as 000000000139; or its URL, which is fetched once.
    sha256
        SHA-256 (hex) of the file. A URL needs one, unless it is `URL`, whose hash is known; a file is checked against
        it where it is given.

    Raises
    ------
    DataError
        The list cannot be had, is not the one of that hash, is empty, or has a line of another form or twice.
    """
    listed = str(listed)
    sha256 = SHA256 if sha256 is None and listed == URL else sha256
    path = _fetched(listed, sha256) if _is_url(listed) else Path(listed)
    ids = _parsed(_checked(path, sha256, listed), path)
    if len(ids) != IMAGES:
        _log.warning("%s lists %d images; the published list of val2017 has %d.", path, len(ids), IMAGES)
    return ids


def _is_url(listed: str) -> bool:
    return listed.startswith(("https://", "http://"))


def _checked(path: Path, sha256: str | None, listed: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"The list of images {path} cannot be read ({error.strerror}): fetch it from {URL} and set data.list."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise DataError(
            f"{path} has the SHA-256 {found}, not the {sha256} of data.list_sha256: fetch {listed} again, or correct "
            "the hash."
        )
    return content


def _fetched(url: str, sha256: str | None) -> Path:
    """File of a URL, in torch's hub folder."""
    import torch

    if sha256 is None:
        raise DataError(
            f"The SHA-256 of {url} is not known here: fetch the file and set data.list_sha256 to the 64 digits that "
            "`sha256sum` gives for it."
        )
    path = Path(torch.hub.get_dir()) / "lists" / f"{sha256}.txt"  # no two lists under one name
    if not path.is_file():
        content = _downloaded(url, path)
        if hashlib.sha256(content).hexdigest() == sha256:
            _write(path, content)
        else:
            raise DataError(f"{url} has not the SHA-256 {sha256}: correct data.list or data.list_sha256.")
    return path


def _downloaded(url: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{url} cannot be downloaded ({reason}): put the file at {path}.") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


def _parsed(content: bytes, path: Path) -> list[str]:
    ids = content.decode("latin-1").rstrip().splitlines()  # any byte decodes; what is no digit is refused below
    for number, line in enumerate(ids, start=1):
        if not re.fullmatch("[0-9]{12}", line.strip()):
            raise DataError(f"{path}, line {number}: {line[:40]!r} is no name such as 000000000139; repair the list.")
    ids = [line.strip() for line in ids]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice or not ids:
        what = f"lists {twice[0]} twice" if twice else "lists no image"
        raise DataError(f"{path} {what}: fetch it again from {URL}.")
    return ids
