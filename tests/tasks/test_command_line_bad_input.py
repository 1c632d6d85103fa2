"""What run.py cannot do ends in a sentence and an exit status, and what is finished is kept."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError

from attention_chains.models import assets
from attention_chains.models.flux import Flux
from attention_chains.records import read_run

BAD = {
    "model.dual_layers=[0,7]": (1, "model.dual_layers names block 7"),
    "model.single_layers=[] method.stream=single": (1, "model.single_layers names no block"),
    "model.image_size=33": (1, "model.image_size is 33"),
    "model.source=no/such/folder/here": (1, "no/such/folder/here holds no model"),
    "task.noise=0": (2, "task.noise is 0.0, but it must be above 0"),
    'data.prompt="a photo"': (1, "5 of 5 samples cannot be used"),
    "data.n=null": (1, "data.n is None: digit scenes are made to order"),
    "out=taken": (1, "Cannot write taken"),
    "out=taken/below": (1, "Cannot write taken/below"),
    "device=cuda:99": (2, "device=cuda:99 is not on this machine"),
    "method.alpha=0": (2, "method.alpha is 0.0, but it must be above 0"),
    "method.n=-1": (2, "method.n is -1, but it must be at least 0"),
    "method=outgoign": (2, "did you mean outgoing?"),
    "method=row_select method.n=2": (2, "row_select is one bounce by definition"),
}


@pytest.mark.parametrize("overrides", BAD)
def test_bad_input_is_a_sentence_and_a_status(command, small, tmp_path, overrides):
    (tmp_path / "taken").write_text("")
    chosen = [overrides] if '"' in overrides else overrides.split()
    status, _, said = command(*small, *chosen)
    expected, sentence = BAD[overrides]
    assert status == expected and sentence in said and "Traceback" not in said


def test_everything_that_scale_paper_misses_is_told_at_once(command, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(assets, "get_token", lambda: None)
    response = httpx.Response(401, request=httpx.Request("GET", "https://hub.invalid/api"))
    monkeypatch.setattr(HfApi, "auth_check", Mock(side_effect=GatedRepoError("refused", response=response)))
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    monkeypatch.setattr(assets.psutil, "virtual_memory", lambda: SimpleNamespace(available=8e9))
    status, shown, said = command("scale=paper", "device=cpu", "logger=none")
    told = ("no Hugging Face token", "takes 34 GB", "needs 36 GB of memory", "gtsegs_ijcv.mat", "imagenet_words.json")
    assert status == 1 and shown == ""
    assert [line for line, text in zip(said.splitlines(), told, strict=True) if text not in line] == []
    assert not (tmp_path / "results").exists()


def test_ctrl_c_says_that_the_same_command_resumes_and_keeps_what_is_finished(command, small, tmp_path, monkeypatch):
    attention = Flux.attention

    def interrupted(self, images, prompts, seeds, *args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(seeds)
        return attention(self, images, prompts, seeds, *args, **kwargs)

    done = []
    with monkeypatch.context() as patch:
        patch.setattr(Flux, "attention", interrupted)
        status, _, said = command(*small, "batch_size=1")
    (run,) = (tmp_path / "results" / "runs").iterdir()
    assert status == 130 and "the finished samples are kept; the same command resumes" in said
    assert len(read_run(run)) == 2
    status, shown, _ = command(*small, "batch_size=1")
    assert status == 0 and "outgoing" in shown and len(read_run(run)) == 5
