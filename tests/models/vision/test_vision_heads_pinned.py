"""A head whose hash nobody publishes is fetched once, looked at, and from then on it is that file or none."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import pytest
import torch

from attention_chains.models import AssetError
from attention_chains.models.linear_head import HASHES, cached_head, known_hash, load_head, pin

URL = "https://heads.invalid/vits/linear.pth"
LINEAR = {"state_dict": {"module.linear.weight": torch.ones(3, 8), "module.linear.bias": torch.zeros(3)}}


class Server:
    """What the publisher's server gives, and how often it was asked."""

    def __init__(self, folder: Path):
        self.path, self.asked = folder / "served.pth", 0
        self.serve(LINEAR)

    def serve(self, content: object) -> None:
        torch.save(content, self.path)

    def __call__(self, url: str, path: str, progress: bool) -> None:
        assert url == URL
        self.asked += 1
        Path(path).write_bytes(self.path.read_bytes())


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    """A server, an empty cache, and an empty working folder."""
    server = Server(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", server)
    monkeypatch.chdir(tmp_path)
    return server


def test_a_pinned_head_is_loaded_and_fetched_once(server):
    HASHES.parent.mkdir()
    HASHES.write_text(f"{'0' * 64}  another.pth")  # written by hand: the last line does not end
    expected = hashlib.sha256(server.path.read_bytes()).hexdigest()
    assert pin(URL) == pin(URL) == known_hash(URL, None) == expected
    assert known_hash("https://heads.invalid/another.pth", None) == "0" * 64
    assert load_head(URL, None, "module.linear.", 8, torch.device("cpu")).weight.shape == (3, 8)
    assert server.asked == 1


def test_another_file_is_refused_from_then_on(server):
    known = pin(URL)
    cached_head(URL).unlink()
    server.serve({"state_dict": {**LINEAR["state_dict"], "module.linear.bias": torch.ones(3)}})
    with pytest.raises(AssetError, match=f"not the {known}"):
        pin(URL)
    assert known_hash(URL, None) == known and not cached_head(URL).exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {"weight": torch.ones(3, 8), "bias": torch.zeros(4)}}, "holds no finite linear layer"),
        ({"state_dict": {"weight": torch.ones(3), "bias": torch.zeros(3)}}, "holds no finite linear layer"),
        ({"weight": torch.ones(3, 8) * torch.nan, "bias": torch.zeros(3)}, "holds no finite linear layer"),
        ([1, 2], "holds no finite linear layer"),
        (object(), "cannot be read safely"),
    ],
)
def test_what_is_no_head_is_neither_trusted_nor_kept(server, content, sentence):
    server.path.write_bytes(b"<html>moved</html>") if type(content) is object else server.serve(content)
    with pytest.raises(AssetError, match=sentence) as refused:
        pin(URL)
    assert "\n" not in str(refused.value)
    assert not HASHES.exists() and not cached_head(URL).exists()


def test_a_hash_that_cannot_be_kept_is_one_sentence(server):
    HASHES.parent.write_text("a file, no folder")
    with pytest.raises(AssetError, match=r"cannot be kept in data/head_sha256\.txt"):
        pin(URL)


def test_nothing_is_trusted_that_came_unencrypted(server):
    with pytest.raises(AssetError, match=r"is no https:// address"):
        pin(URL.replace("https", "http"))
    assert server.asked == 0


@pytest.mark.usefixtures("scripts")
def test_make_heads_pins_every_head_that_a_model_names_by_url():
    published = importlib.import_module("pin_heads").published()
    assert len(published) == len(set(published)) == 7
    assert all(url.startswith("https://dl.fbaipublicfiles.com/dino") for url in published)
