"""What a Stable Diffusion model cannot do is said in one sentence, when it is loaded where that can be."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler

from attention_chains.data.errors import DataError
from attention_chains.models import AssetError
from attention_chains.models.assets import BUNDLED


@pytest.fixture
def copy(tiny_sd, tmp_path):
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(tiny_sd, tmp_path / "copy")


def refusal(action, kind=AssetError) -> str:
    with pytest.raises(kind) as refused:
        action()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_that_predicts_no_noise_is_refused(load_sd, copy):
    rewrite(copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert "predicts 'v_prediction', but guidance needs the noise" in refusal(lambda: load_sd(source=str(copy)))


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerDiscreteScheduler(steps_offset=1),
        DDPMScheduler(clip_sample=False, steps_offset=1),
        PNDMScheduler(steps_offset=1),
    ],
)
def test_a_scheduler_that_draws_noise_or_scales_its_states_is_refused(new_sd, load_sd, tmp_path, scheduler):
    new_sd(scheduler).save_pretrained(tmp_path)
    sentence = refusal(lambda: load_sd(source=str(tmp_path)))
    assert f"is {type(scheduler).__name__}, but only PNDMScheduler with skip_prk_steps" in sentence


def test_a_model_for_inpainting_is_refused(new_sd, load_sd, tmp_path):
    new_sd(in_channels=9).save_pretrained(tmp_path)
    assert "takes 9 channels, but its autoencoder gives 4" in refusal(lambda: load_sd(source=str(tmp_path)))


def test_a_unet_for_another_text_encoder_is_refused(new_sd, load_sd, tmp_path):
    new_sd(cross_attention_dim=24).save_pretrained(tmp_path)
    assert "reads text of width 24, but its text encoder gives 16" in refusal(lambda: load_sd(source=str(tmp_path)))


@pytest.mark.parametrize("size", [33, 1, 0, -2])
def test_a_size_that_makes_no_whole_number_of_latents_is_refused(load_sd, sd, photographs, size):
    for action in (
        lambda: load_sd(image_size=size),
        lambda: sd.noise([1], (32, size)),
        lambda: sd.encode(photographs[:1], size=(size, 32)),
    ):
        sentence = refusal(action)
        assert str(size) in sentence and "set model.image_size to a multiple of 2" in sentence


@pytest.mark.parametrize("steps", [0, -1, 1000])
def test_more_steps_than_the_schedule_has_and_none_at_all_are_refused(load_sd, sd, steps):
    for action in (lambda: load_sd(steps=steps), lambda: sd.scheduler(steps)):
        assert refusal(action) == f"model.steps is {steps}, but the model's schedule takes 1 to 999 steps: choose one."


def test_a_layer_that_is_not_there_or_not_one_is_answered_with_all_that_are(sd):
    known = [
        f"{block}.{i}.attentions.{j}"
        for block, ids, n in (("down_blocks", (0, 1, 2), 2),)
        for i in ids
        for j in range(n)
    ]
    known += ["mid_block.attentions.0", *(f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3))]
    for name in ("up_blocks.0.attentions.0", "up_blocks.2", "up_blocks.2.attentions.", "", "attn1"):
        sentence = refusal(lambda name=name: sd.layer(name))
        assert f"no one self-attention layer '{name}'" in sentence
        assert sentence.endswith(f"set task.layer to one of {', '.join(known)}.")
    refusal(lambda: sd.map_size("nothing", (8, 8)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_make_no_image(sd, bad):
    latents = sd.noise([1, 2])
    latents[1, 0, 3, 3] = bad
    sentence = refusal(lambda: sd.decode(latents))
    assert "decoder of the autoencoder gives NaN or infinite values in float32: set model.dtype to float32" in sentence


@pytest.mark.parametrize(
    "image", [np.zeros((32, 32, 3)), np.zeros((32, 32), np.uint8), np.zeros((3, 32, 32), np.uint8)]
)
def test_an_array_that_is_no_image_is_refused(sd, image):
    assert "the model takes (height, width, 3) of uint8" in refusal(lambda: sd.encode([image]), DataError)


@pytest.mark.parametrize(
    ("posterior", "seeds", "said"),
    [
        ("mode", None, "cannot be 'mode': choose mean or sample"),
        ("sample", None, "sample of 3 images takes 3 seeds, not 0"),
        ("sample", [1, 2], "sample of 3 images takes 3 seeds, not 2"),
        ("mean", [1, 2, 3], "mean of 3 images takes 0 seeds, not 3"),
    ],
)
def test_a_posterior_without_its_seeds_is_refused(sd, photographs, posterior, seeds, said):
    assert said in refusal(lambda: sd.encode(photographs, posterior, seeds), DataError)


def test_no_safety_checker_is_loaded_even_where_the_folder_has_one(load_sd, copy):
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker" / "config.json").write_text("{}")
    rewrite(
        copy / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    pipe = load_sd(source=str(copy)).pipe
    assert pipe.safety_checker is None and pipe.feature_extractor is None
    image = pipe([""], num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert image.std() > 0


@pytest.mark.parametrize("source", ["bundled:nothing", "no/such/folder/at/all", "."])
def test_a_source_without_a_model_is_named(load_sd, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "holds no model (no model_index.json): set model.source" in refusal(lambda: load_sd(source=source))


def test_another_familys_folder_is_no_stable_diffusion(load_sd):
    said = refusal(lambda: load_sd(source="bundled:flux"))
    assert said.startswith(f"{BUNDLED / 'flux'} is not whole: unet or a file of it is not there")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_cut_off_are_refused(load_sd, copy, part):
    weights = next((copy / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"{copy} is no Stable Diffusion pipeline that can be loaded" in refusal(lambda: load_sd(source=str(copy)))


def test_weights_of_another_size_are_refused(load_sd, copy):
    rewrite(copy / "unet" / "config.json", block_out_channels=[8, 16, 16, 32])
    assert f"{copy} is no Stable Diffusion pipeline that can be loaded" in refusal(lambda: load_sd(source=str(copy)))
