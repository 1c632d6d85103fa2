"""What a FLUX model cannot do is said in one sentence, when it is loaded and not in the middle of a run."""

from __future__ import annotations

import json
import shutil

import pytest

from attention_chains import models
from attention_chains.models import AssetError


@pytest.fixture
def copy(tiny_flux, tmp_path):
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(tiny_flux, tmp_path / "copy")


def refusal(action) -> str:
    with pytest.raises(AssetError) as refused:
        action()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("stream", ["dual", "single"])
def test_a_block_that_the_model_does_not_have_is_named_with_those_it_has(load_flux, stream):
    sentence = refusal(lambda: load_flux(layers={stream: [0, 7]}))
    assert f"model.{stream}_layers names block 7" in sentence
    assert f"has 2 {stream}-stream blocks: choose from 0..1." in sentence


def test_no_block_at_all_is_refused(load_flux):
    assert "model.dual_layers names no block" in refusal(lambda: load_flux(layers={"dual": []}))


@pytest.mark.parametrize("size", [30, 33, 1])
def test_a_size_that_makes_no_whole_number_of_tokens_is_refused(load_flux, size):
    sentence = refusal(lambda: load_flux(image_size=size))
    assert f"model.image_size is {size}" in sentence and "a multiple of 4 pixels" in sentence


def test_a_guidance_distilled_model_asks_for_its_guidance(new_flux, load_flux, tmp_path):
    new_flux(guidance_embeds=True).save_pretrained(tmp_path)
    assert "set model.guidance" in refusal(lambda: load_flux(source=str(tmp_path)))


@pytest.mark.parametrize("source", ["bundled:nothing", "no/such/folder/at/all", "."])
def test_a_source_without_a_model_is_named(load_flux, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "holds no model (no model_index.json): set model.source" in refusal(lambda: load_flux(source=source))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_weights_that_are_cut_off_are_refused(load_flux, copy, part):
    weights = next((copy / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"{copy} is no FLUX pipeline that can be loaded" in refusal(lambda: load_flux(source=str(copy)))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"])
def test_a_part_that_is_not_there_is_named(load_flux, copy, part):
    shutil.rmtree(copy / part)
    assert f"{copy} is not whole: {part} or a file of it is not there" in refusal(lambda: load_flux(source=str(copy)))


@pytest.mark.parametrize("file", ["transformer/diffusion_pytorch_model.safetensors", "tokenizer_2/tokenizer.json"])
def test_a_part_without_its_weights_or_its_vocabulary_is_named(load_flux, copy, file):
    (copy / file).unlink()
    part = file.split("/")[0]
    assert f"{copy} is not whole: {part} or a file of it is not there" in refusal(lambda: load_flux(source=str(copy)))


def test_an_index_that_is_cut_off_is_refused(load_flux, copy):
    (copy / "model_index.json").write_text('{"vae": ["diffusers"')
    assert f"{copy} is not whole: model_index.json" in refusal(lambda: load_flux(source=str(copy)))


def test_weights_of_another_size_are_refused(load_flux, copy):
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"joint_attention_dim": 48}))
    assert f"{copy} is no FLUX pipeline that can be loaded" in refusal(lambda: load_flux(source=str(copy)))


def test_a_family_without_an_adapter_is_told_those_that_have_one():
    assert refusal(lambda: models.load("flax")).endswith(f"choose one of {', '.join(models.FAMILIES)}.")
