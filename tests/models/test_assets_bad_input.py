"""Whatever is missing to run a model is said before anything runs: all of it, one sentence each."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from attention_chains.models import AssetError, assets
from attention_chains.models.assets import local_folder, missing

CPU = torch.device("cpu")
SOURCE = "owner/gated"


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """A machine with an empty cache and a token, whose hub refuses nothing."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(assets, "get_token", lambda: "hf_token")
    hub(monkeypatch, None)


def hub(monkeypatch, error: Exception | None) -> None:
    def auth_check(self, repository):
        if error is not None:
            raise error

    monkeypatch.setattr(HfApi, "auth_check", auth_check)


def refused(kind: type[Exception], status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid/api"))
    return kind("refused\nwith details", response=response)


def sentences(memory_gb=None, disk_gb=None, device=CPU) -> list[str]:
    found = missing(SOURCE, None, device, memory_gb, disk_gb)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in found)
    return found


def test_with_access_room_and_memory_nothing_is_missing():
    assert sentences(memory_gb=0.001, disk_gb=0.001) == []


def test_without_a_token_it_says_where_the_licence_is_and_how_to_log_in(monkeypatch):
    hub(monkeypatch, refused(GatedRepoError, 401))
    monkeypatch.setattr(assets, "get_token", lambda: None)
    (sentence,) = sentences()
    assert "there is no Hugging Face token" in sentence
    assert f"{constants.ENDPOINT}/{SOURCE}" in sentence and "hf auth login" in sentence and "HF_TOKEN" in sentence


def test_an_open_repository_needs_no_token(monkeypatch):
    monkeypatch.setattr(assets, "get_token", lambda: None)
    assert sentences() == []


def test_without_network_and_token_both_are_told(monkeypatch):
    hub(monkeypatch, httpx.ConnectError("no route"))
    monkeypatch.setattr(assets, "get_token", lambda: None)
    unreachable, token = sentences()
    assert "cannot be reached" in unreachable and "There is no Hugging Face token either" in token


def test_a_licence_that_is_not_accepted_is_told_with_its_page(monkeypatch):
    hub(monkeypatch, refused(GatedRepoError, 403))
    (sentence,) = sentences()
    assert "is gated and this account has not accepted its licence" in sentence
    assert f"{constants.ENDPOINT}/{SOURCE}" in sentence


def test_a_repository_that_does_not_exist_is_told(monkeypatch):
    hub(monkeypatch, refused(RepositoryNotFoundError, 404))
    (sentence,) = sentences()
    assert f"{SOURCE} does not exist" in sentence and "model.source" in sentence


@pytest.mark.parametrize(
    "error",
    [
        OfflineModeIsEnabled("offline mode\nis on"),
        httpx.ConnectError("no route"),
        TimeoutError(),
        OSError("proxy"),
    ],
    ids=["offline", "no route", "time out", "proxy"],
)
def test_a_hub_that_cannot_be_reached_is_told_with_the_reason(monkeypatch, error):
    hub(monkeypatch, error)
    (sentence,) = sentences()
    assert f"{SOURCE} is not on this machine and its server cannot be reached (" in sentence


def test_a_full_disk_is_told_with_what_is_needed_and_what_is_free(monkeypatch):
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda _: SimpleNamespace(free=3.2e9))
    (sentence,) = sentences(disk_gb=34)
    assert "takes 34 GB" in sentence and "has 3 GB free" in sentence and "HF_HOME" in sentence


def test_too_little_memory_is_told_with_what_is_needed_and_what_is_free(monkeypatch):
    monkeypatch.setattr(assets.psutil, "virtual_memory", lambda: SimpleNamespace(available=7.9e9))
    (sentence,) = sentences(memory_gb=36)
    assert "needs 36 GB of memory and this machine has 8 GB free" in sentence


def test_the_memory_of_a_gpu_counts_where_the_model_runs_on_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20e9, 24e9))
    (sentence,) = sentences(memory_gb=36, device=torch.device("cuda:0"))
    assert "the GPU cuda:0 has 20 GB free" in sentence


def test_everything_is_told_at_once(monkeypatch):
    hub(monkeypatch, refused(GatedRepoError, 401))
    monkeypatch.setattr(assets, "get_token", lambda: None)
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(assets.psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    found = sentences(memory_gb=36, disk_gb=34)
    assert ["token" in found[0], "34 GB and" in found[1], "36 GB of memory" in found[2]] == [True] * 3


def test_a_model_that_is_here_needs_neither_token_nor_disk(monkeypatch, tiny_flux):
    monkeypatch.setattr(assets, "get_token", lambda: None)
    assert missing(str(tiny_flux), None, CPU, None, 1e9) == []


def test_a_folder_without_a_model_is_told(tmp_path):
    (sentence,) = missing(str(tmp_path), None, CPU, None, None)
    assert sentence.startswith(f"{tmp_path} holds no model")


def test_a_repository_that_cannot_be_downloaded_is_an_asset_error(monkeypatch):
    def offline(*_, local_files_only=False, **__):
        raise OSError("offline\nwith details")

    monkeypatch.setattr(assets, "snapshot_download", offline)
    with pytest.raises(AssetError, match=r"^owner/gated cannot be downloaded: offline$"):
        local_folder(SOURCE)
