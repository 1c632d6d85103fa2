"""A linear head is used only when it is the file that was meant, and read without running what is in it."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from attention_chains.models import AssetError, linear_head
from attention_chains.models.linear_head import cached_head, head_file, known_hash, load_head, missing_head

URL = "https://heads.invalid/vits/linear.pth"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a head was fetched"))
    monkeypatch.setattr(linear_head.urllib.request, "urlopen", lambda *_, **__: pytest.fail("a server was asked"))
    return tmp_path / "hub"


def write(path: Path, content: object) -> str:
    """Save a head; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors(prefix: str = "", width: int = 8) -> dict:
    return {f"{prefix}weight": torch.randn(3, width), f"{prefix}bias": torch.randn(3)}


def refusal(action) -> str:
    with pytest.raises(AssetError) as refused:
        action()
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
    return str(refused.value)


def test_the_published_form_of_dino_lies_beside_the_state_of_its_optimiser():
    content = {"epoch": 100, "state_dict": tensors("module.linear."), "optimizer": {"lr": 0.1}, "best_acc": 77.0}
    sha256 = write(cached_head(URL), content)
    head = load_head(URL, sha256, "module.linear.", 8, CPU)
    features = torch.randn(5, 8)
    weight, bias = content["state_dict"].values()
    assert torch.allclose(head(features.bfloat16()), features.bfloat16().float() @ weight.T + bias, atol=1e-6)
    assert missing_head(URL, sha256) == []


def test_a_url_without_a_hash_is_refused_and_missing_in_one_sentence():
    write(cached_head(URL), tensors())
    sentence = refusal(lambda: head_file(URL, None))
    assert missing_head(URL, None) == [sentence]
    assert f"The SHA-256 of {URL} is not known" in sentence and "sha256sum" in sentence


@pytest.mark.parametrize("sha256", ["abcdef12", "A" * 64, "g" * 64, ""])
def test_eight_digits_are_no_hash(sha256):
    write(cached_head(URL), tensors())
    sentence = refusal(lambda: head_file(URL, sha256))
    assert f"model.head_sha256 is '{sha256}'" in sentence and missing_head(URL, sha256) == [sentence]


def test_a_file_whose_hash_differs_is_refused_and_missing_with_both_hashes():
    right = write(cached_head(URL), tensors())
    sentence = refusal(lambda: load_head(URL, "0" * 64, "", 8, CPU))
    assert right in sentence and "0" * 64 in sentence and missing_head(URL, "0" * 64) == [sentence]


def test_a_local_file_is_held_against_its_hash_where_one_is_given(tmp_path):
    path = tmp_path / "head.pth"
    right = write(path, tensors())
    assert head_file(str(path), None) == head_file(str(path), right) == path
    assert "has the SHA-256" in refusal(lambda: head_file(str(path), "0" * 64))


def test_a_head_is_fetched_once_and_checked(monkeypatch, tmp_path):
    sha256 = write(tmp_path / "published.pth", tensors())
    fetched = []

    def fetch(url, path, progress):
        fetched.append(url)
        Path(path).write_bytes((tmp_path / "published.pth").read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert load_head(URL, sha256, "", 8, CPU).weight.shape == (3, 8)
    assert fetched == [URL]


def test_a_fetched_file_that_is_not_the_head_is_not_kept(monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda _, path, progress: Path(path).write_bytes(b"sorry"))
    assert "has the SHA-256" in refusal(lambda: head_file(URL, "0" * 64))
    assert not cached_head(URL).exists()


def test_a_head_that_cannot_be_fetched_is_an_asset_error_that_says_where_to_put_it(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route\nwith details")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(linear_head.urllib.request, "urlopen", offline)
    sentence = refusal(lambda: head_file(URL, "0" * 64))
    assert "cannot be downloaded (no route): put the file at" in sentence and str(cached_head(URL)) in sentence
    (missing,) = missing_head(URL, "0" * 64)
    assert "is not on this machine and cannot be reached (no route)" in missing and str(cached_head(URL)) in missing


def test_a_file_that_is_not_there_is_named(tmp_path):
    for head in (str(tmp_path / "none.pth"), "bundled:none/head.safetensors"):
        sentence = refusal(lambda head=head: head_file(head, None))
        assert sentence.startswith("There is no head ") and missing_head(head, None) == [sentence]


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_head_is_not_run(tmp_path):
    path, trace = tmp_path / "head.pth", tmp_path / "was-run"
    torch.save({"weight": Malicious(trace)}, path)
    assert "cannot be read" in refusal(lambda: load_head(str(path), None, "", 8, CPU))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(trace)))
    assert "cannot be read" in refusal(lambda: load_head(str(tmp_path / "plain.pth"), None, "", 8, CPU))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight": torch.randn(3, 8)}, "has no 'bias'"),
        ({"weight": torch.randn(3, 8), "bias": torch.randn(4)}, "no linear layer"),
        ({"weight": torch.randn(3), "bias": torch.randn(3)}, "no linear layer"),
        ({"weight": 1, "bias": 2}, "has no 'weight'"),
        ([1, 2], "has no 'weight'"),
        (tensors(width=9), "takes 9 features, but the network gives 8"),
    ],
)
def test_a_file_that_holds_no_linear_layer_of_the_right_width_is_refused(tmp_path, content, said):
    write(tmp_path / "head.pth", content)
    assert said in refusal(lambda: load_head(str(tmp_path / "head.pth"), None, "", 8, CPU))


@pytest.mark.parametrize("name", ["head.pth", "head.safetensors"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02")
    assert "cannot be read" in refusal(lambda: load_head(str(tmp_path / name), None, "", 8, CPU))


def test_hashes_of_published_heads_are_read_from_a_file_of_sha256sum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = URL.rsplit("/", 1)[-1]
    assert known_hash(URL, None) is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "head_sha256.txt").write_text(f"{'a' * 64}  other.pth\n\n{'b' * 64} *heads/{name}\n")
    assert known_hash(URL, None) == "b" * 64
    assert known_hash(URL, "c" * 64) == "c" * 64
    assert known_hash("bundled:dinov1/head.safetensors", None) is None
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / name).write_bytes(b"another file")
    (sentence,) = missing_head(URL, None)
    assert f"not the {'b' * 64}" in sentence
