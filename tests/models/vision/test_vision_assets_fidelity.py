"""What a vision model is made of is found, hashed, and missed by name: its own files, its head and its class names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants

from attention_chains import models
from attention_chains.config.schema import ModelConfig
from attention_chains.models import assets

CPU = torch.device("cpu")
REVISION = "0123456789abcdef0123456789abcdef01234567"
FAMILIES = ("vit", "clip", "dinov1", "dinov2")


@pytest.fixture
def copy(tiny, tmp_path):
    return lambda family: shutil.copytree(tiny(family).folder, tmp_path / family)


def config(family: str, source: Path | str, **keys: object) -> ModelConfig:
    return ModelConfig(name=family, family=family, source=str(source), at={}, **keys)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_is_there_lacks_nothing(tiny, family):
    assert models.missing(config(family, tiny(family).folder), CPU) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_digest_is_of_the_weights_and_the_config_and_of_nothing_beside_them(copy, tiny, family):
    folder, digest = copy(family), models.weights_digest(config(family, tiny(family).folder))
    for name in ("README.md", "training.json", "pytorch_model.bin", "log.csv"):
        (folder / name).write_text("{}")
    assert models.weights_digest(config(family, folder)) == digest
    for path in [*folder.glob("*config.json"), *folder.glob("*.safetensors")]:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert models.weights_digest(config(family, folder)) != digest
        path.write_bytes(content)


def test_a_tokenizer_counts_for_clip(copy):
    folder = copy("clip")
    digest = models.weights_digest(config("clip", folder))
    (folder / "tokenizer.json").write_text("{}")
    assert models.weights_digest(config("clip", folder)) != digest


def test_head_and_class_names_count(tiny, head_file, tmp_path):
    model = config("dinov1", tiny("dinov1").folder)
    heads = [replace(model, head=str(head_file("dinov1", 128, classes))) for classes in (10, 11)]
    names = [replace(model, classes=classes) for classes in ("digits", "imagenet")]
    assert len({models.weights_digest(each) for each in (model, *heads, *names)}) == 5
    (tmp_path / "names.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    same = replace(model, classes=str(tmp_path / "names.txt"))
    assert models.weights_digest(same) == models.weights_digest(names[0])


def test_a_repository_is_taken_from_the_hubs_cache_without_a_network_only_when_its_own_files_are_all_there(
    tiny, load, tmp_path, monkeypatch
):
    snapshot = tmp_path / "hub" / "models--owner--clip" / "snapshots" / REVISION
    shutil.copytree(tiny("clip").folder, snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HfApi, "auth_check", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    model = config("clip", "owner/clip", revision=REVISION)
    assert models.missing(model, CPU) == []
    loaded = load("clip", source="owner/clip", revision=REVISION, image_size=32, classes=["cat", "dog"])
    assert loaded.classes == 2
    (snapshot / "open_clip_config.json").rename(snapshot / "config.json")  # what is left is another library's form
    shutil.copy(snapshot / "open_clip_model.safetensors", snapshot / "model.safetensors")
    assert any("owner/clip is not on this machine" in sentence for sentence in models.missing(model, CPU))


def test_what_is_missing_of_weights_and_head_is_said_at_once():
    model = config("dinov2", "no/such/folder/at/all", head="https://heads.invalid/head.pth", classes="digits")
    weights, head = models.missing(model, CPU)
    assert "holds no model (no config.json)" in weights and "SHA-256 of https://heads.invalid/head.pth" in head
    assert len(models.missing(replace(model, head=None), CPU)) == 1


def test_a_pipeline_of_diffusers_needs_no_more_than_its_folder():
    flux = config("flux", "bundled:flux")
    assert models.missing(flux, CPU) == []
    assert models.weights_digest(flux) == assets.weights_digest("bundled:flux")
