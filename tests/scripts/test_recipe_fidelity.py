"""The recipe of the FLUX miniature makes a pipeline folder that the adapter loads, with a card that says its origin."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline

from attention_chains import models
from attention_chains.data.digit_scenes import DigitScenes


@pytest.fixture(scope="module")
def built(scripts, tmp_path_factory):
    """Folder, recipe: every stage of the recipe with two steps of two scenes each."""
    from minis import flux
    from minis.loop import Recipe

    stage = Recipe(steps=2, learning_rate=1e-3, warmup=1, log_every=1, save_every=1)
    stages = {"autoencoder": stage, "flow": stage, "polish": replace(stage, muon=True)}
    recipe = flux.FluxRecipe(scenes=4, portraits=4, portrait_share=0.5, **stages, weighted_steps=1, polishings=2)
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flux, "BATCH", 2)
        flux.build(folder / "work", folder / "out", recipe)
        files = {path: path.read_bytes() for path in (folder / "out").rglob("*.safetensors")}
        flux.build(folder / "work", folder / "out", recipe)  # everything is there already
    assert files == {path: path.read_bytes() for path in files}
    return folder / "out", recipe


def test_the_adapter_loads_it_like_any_flux(built):
    flux = models.load(
        "flux",
        source=str(built[0]),
        revision=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        image_size=64,
        text_length=16,
        steps=4,
        layers={"dual": [0, 1, 2], "single": [0, 1, 2]},
    )
    scene = DigitScenes(n=1)[0]
    attention = flux.attention([scene.image], [scene.prompt], [0], streams=("dual", "single"))
    assert attention.grid == (16, 16) and attention.heads().matrix().shape == (1, 4, 272, 272)


def test_it_generates_as_a_diffusers_pipeline(built):
    pipe = FluxPipeline.from_pretrained(built[0], dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a photo of a red three", num_inference_steps=2, height=64, width=64, max_sequence_length=16)
    assert image.images[0].size == (64, 64)


def test_latents_have_mean_zero_and_deviation_one_after_shift_and_scale(built):
    from minis.flux import encode_batch

    vae = AutoencoderKL.from_pretrained(built[0], subfolder="vae")
    scenes = [DigitScenes("train", 4, objects="mixed")[index].image for index in range(4)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in scenes])
    latents = (encode_batch(vae, images, "cpu") - vae.config.shift_factor) * vae.config.scaling_factor
    assert abs(latents.mean()) < 0.02 and abs(latents.std() - 1) < 0.02


def test_its_card_names_the_recipe_the_data_and_the_hash_of_every_file_of_weights(built):
    folder, recipe = built
    card = json.loads((folder / "training.json").read_text())
    assert card["recipe"] == json.loads(json.dumps(asdict(recipe)))
    for name, kind in (("data", "mixed"), ("portraits", "portrait")):
        assert card[name] == DigitScenes("train", 4, recipe.seed, objects=kind).fingerprint
    assert card["weights"] == {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.safetensors")
    }
    assert set(card["weights"]) == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".json", ".csv"}


def test_packing_is_that_of_flux(scripts):
    from minis.flux import pack

    latents = torch.arange(2 * 4 * 32 * 32).view(2, 4, 32, 32)
    packed = pack(latents)
    assert packed.shape == (2, 256, 16)
    assert packed[1, 17].tolist() == latents[1, :, 2:4, 2:4].flatten().tolist()  # token 17: second row, second column
