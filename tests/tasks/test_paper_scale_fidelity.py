"""The path of scale=paper: FLUX.1's own sizes at reduced depth, random weights in bf16, a data file as published."""

from __future__ import annotations

import shutil

import pytest
import torch

from attention_chains import models
from attention_chains.metrics.segmentation import FIELDS
from attention_chains.models.flux import Flux
from attention_chains.records import read_run

FLUX_1 = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 56, 56),
}
DEV_SCHEDULE = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
SHALLOW = ["model.dual_layers=[0]", "model.single_layers=[0]", "model.memory_gb=0"]
BOTH_STREAMS = "+methods={dual: {name: outgoing, n: 2}, single: {name: outgoing, n: 2, stream: single}}"


@pytest.fixture(scope="module")
def new_folder(new_flux, tmp_path_factory):
    """Write a pipeline into a folder that is gone after the module: the wide ones take a gigabyte each."""
    folders = []

    def write(**settings):
        folders.append(tmp_path_factory.mktemp("paper"))
        new_flux(**settings).to(torch.bfloat16).save_pretrained(folders[-1])
        return folders[-1]

    yield write
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def schnell(new_folder):
    return new_folder(wide=True, vae_channels=(32, 32, 32, 32), guidance_embeds=False, **FLUX_1)


@pytest.fixture(scope="module")
def dev(new_folder):
    return new_folder(wide=True, vae_channels=(32, 32, 32, 32), guidance_embeds=True, schedule=DEV_SCHEDULE, **FLUX_1)


@pytest.fixture
def shapes(monkeypatch):
    """Shapes of the attention that a run hands to its methods, by stream."""
    seen = []
    attention = Flux.attention

    def watched(*args, **kwargs):
        found = attention(*args, **kwargs)
        seen.append({stream: tuple(found.heads(stream).matrix().shape) for stream in found.streams})
        return found

    monkeypatch.setattr(Flux, "attention", watched)
    return seen


@pytest.fixture
def run(program, configured, gtsegs, tmp_path):
    """What run.py does with a folder of weights at scale=paper; gives the records."""

    def at_paper_scale(folder, *overrides):
        place = [f"model.source={folder}", f"out={tmp_path / 'results'}", "logger=none", "device=cpu"]
        program.run(configured("scale=paper", *place, *SHALLOW, *gtsegs, *overrides))
        (run,) = (tmp_path / "results" / "runs").iterdir()
        return read_run(run)

    return at_paper_scale


def check(records, methods):
    assert [record["id"] for record in records] == ["n02123045_0", "n02084071_1"]
    for record in records:
        assert set(record["stats"]) == methods
        for statistics in record["stats"].values():
            assert sum(statistics[field] for field in ("tn", "fp", "fn", "tp")) == 224 * 224
            assert all(0 <= statistics[field] <= 1 for field in ("ap", "fg_ap")) and tuple(statistics) == FIELDS


def test_schnell_at_full_width_segments_a_small_image(schnell, run, shapes):
    records = run(schnell, BOTH_STREAMS, "model.image_size=128", "model.text_length=32")
    check(records, {"dual", "single"})
    assert shapes == [{"dual": (1, 24, 96, 96), "single": (1, 24, 96, 96)}] * 2


def test_dev_asks_for_its_guidance_and_follows_its_own_schedule(new_folder, run, shapes):
    folder = new_folder(guidance_embeds=True, schedule=DEV_SCHEDULE)
    records = run(folder, "model=flux_dev", BOTH_STREAMS, "model.image_size=64", "model.text_length=16")
    check(records, {"dual", "single"})
    assert shapes == [{"dual": (1, 2, 272, 272), "single": (1, 2, 272, 272)}] * 2


@pytest.mark.slow  # minutes, most of them for lambda2 of 24 heads with 1280 tokens
def test_schnell_at_full_width_and_full_size(schnell, run, shapes):
    check(run(schnell), {"outgoing"})
    assert shapes == [{"dual": (1, 24, 1280, 1280)}] * 2


@pytest.mark.slow
def test_dev_at_full_width_and_full_size(dev, run, shapes):
    check(run(dev, "model=flux_dev", "method.heads=uniform"), {"outgoing"})
    assert shapes == [{"dual": (1, 24, 1280, 1280)}] * 2


@pytest.mark.slow
def test_attention_at_full_size_is_a_chain_for_each_head_and_image_tokens_come_last(schnell, configured):
    model = configured("scale=paper").model
    flux = models.load(
        "flux",
        source=str(schnell),
        revision=None,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        image_size=model.image_size,
        text_length=model.text_length,
        steps=model.steps,
        layers={"dual": [0], "single": [0]},
    )
    image = torch.randint(256, (300, 400, 3), dtype=torch.uint8).numpy()
    attention = flux.attention([image], ["a cat"], [1], streams=("dual", "single"))
    assert (attention.text, attention.grid) == (256, (32, 32))
    for stream in ("dual", "single"):
        matrix = attention.heads(stream).matrix()
        assert matrix.shape == (1, 24, 1280, 1280) and matrix.dtype == torch.float32
        torch.testing.assert_close(matrix.sum(-1), torch.ones(1, 24, 1280), atol=1e-5, rtol=0)
