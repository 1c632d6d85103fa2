"""Weights are found in a folder or in the hub's cache, without a network; their hash is of what they are."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError

from attention_chains.models.assets import BUNDLED, local_folder, missing, weights_digest

CPU = torch.device("cpu")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(tiny_flux, tmp_path) -> Path:
    return shutil.copytree(tiny_flux, tmp_path / "copy")


@pytest.fixture
def cached(tiny_flux, tmp_path, monkeypatch) -> Path:
    """The tiny model as `owner/tiny` in a hub cache of its own: files named by their hash, a snapshot of links."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    snapshot = repository / "snapshots" / REVISION
    (repository / "blobs").mkdir(parents=True)
    for file in (path for path in tiny_flux.rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(tiny_flux)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HfApi, "auth_check", lambda *_, **__: pytest.fail("the hub was asked"))
    return snapshot


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_bundled_model_is_a_folder_of_the_package():
    assert local_folder("bundled:flux") == BUNDLED / "flux"


def test_a_model_in_the_hubs_cache_is_taken_from_there_without_a_network(cached, load_flux):
    assert missing("owner/tiny", REVISION, CPU, None, 1e9) == []
    assert local_folder("owner/tiny", REVISION) == cached
    assert load_flux(source="owner/tiny", revision=REVISION).pipe.transformer.config.num_layers == 2


def test_half_a_download_is_no_model(cached, monkeypatch):
    response = httpx.Response(401, request=httpx.Request("GET", "https://hub.invalid/api"))
    monkeypatch.setattr(HfApi, "auth_check", Mock(side_effect=GatedRepoError("refused", response=response)))
    (cached / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert len(missing("owner/tiny", REVISION, CPU, None, None)) == 1


def test_a_folder_of_the_form_owner_slash_name_is_a_folder(tiny_flux, tmp_path, monkeypatch):
    shutil.copytree(tiny_flux, tmp_path / "owner" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert missing("owner/tiny", None, CPU, None, None) == []
    assert local_folder("owner/tiny") == Path("owner/tiny")


def test_the_digest_is_the_same_wherever_the_model_lies(tiny_flux, copy, cached):
    digest = weights_digest(str(tiny_flux))
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert weights_digest(str(copy)) == digest == weights_digest("owner/tiny", REVISION)


@pytest.mark.parametrize("file", ["vae/*.safetensors", "text_encoder_2/*.safetensors", "transformer/*.safetensors"])
def test_the_digest_changes_with_a_byte_of_any_weights(tiny_flux, copy, file):
    changed(next(copy.glob(file)))
    assert weights_digest(str(copy)) != weights_digest(str(tiny_flux))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("transformer/config.json", '"num_attention_heads": 2', '"num_attention_heads": 4'),
        ("scheduler/scheduler_config.json", '"shift": 1.0', '"shift": 3.0'),
        ("tokenizer_2/tokenizer.json", "▁red", "▁rot"),
    ],
)
def test_the_digest_changes_with_whatever_else_decides_the_attention(tiny_flux, copy, file, old, new):
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    assert weights_digest(str(copy)) != weights_digest(str(tiny_flux))


def test_the_digest_does_not_change_with_what_lies_beside_the_parts(tiny_flux, copy):
    for name in ("README.md", "training.json", "flux1-schnell.safetensors", "transformer/notes.md"):
        (copy / name).write_text("{}")
    assert weights_digest(str(copy)) == weights_digest(str(tiny_flux))
