"""The recipe of the Stable Diffusion miniature makes a pipeline folder that the adapter loads, with a card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline

from attention_chains import models
from attention_chains.data.digit_scenes import DigitScenes


@pytest.fixture(scope="module")
def built(scripts, tmp_path_factory):
    """Folder, recipe: two steps on four scenes of each kind."""
    from minis import sd15
    from minis.loop import Recipe

    stage = Recipe(2, 1e-3, warmup=1, log_every=1, save_every=1, muon=True)
    finish = replace(stage, muon="kernels")
    recipe = sd15.Sd15Recipe(
        scenes=4, unet=stage, polish=stage, finish=finish, portrait_share=0.5, compiled=False
    )  # compiling takes minutes
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sd15, "BATCH", 2)
        sd15.build(folder / "work", folder / "out", recipe)
        files = {path: path.read_bytes() for path in (folder / "out").rglob("*.safetensors")}
        sd15.build(folder / "work", folder / "out", recipe)  # everything is there already
    assert files == {path: path.read_bytes() for path in files}
    return folder / "out", recipe


def test_the_adapter_loads_it_like_any_stable_diffusion(built):
    settings = {"revision": None, "device": torch.device("cpu"), "dtype": torch.float32, "image_size": 64}
    model = models.load("sd15", source=str(built[0]), **settings)
    sizes = {layer: model.map_size(layer, (32, 32)) for layer in model.layers()}
    assert sizes[model.layer("up_blocks.2.attentions.2")] == (16, 16)
    assert set(sizes.values()) == {(side, side) for side in (32, 16, 8, 4)}


def test_it_generates_as_a_diffusers_pipeline(built):
    pipe = StableDiffusionPipeline.from_pretrained(built[0], dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a photo of a red three", num_inference_steps=2, height=64, width=64).images[0].size == (64, 64)


def test_it_was_trained_on_the_noise_that_its_scheduler_adds(built):
    from minis.sd15 import kept_signal

    scheduler = PNDMScheduler.from_pretrained(built[0], subfolder="scheduler")
    assert torch.allclose(kept_signal(), scheduler.alphas_cumprod, atol=1e-6)


def test_its_card_names_the_recipe_the_data_and_the_hash_of_every_file_of_weights(built):
    folder, recipe = built
    card = json.loads((folder / "training.json").read_text())
    assert card["recipe"] == json.loads(json.dumps(asdict(recipe)))
    for kind in ("mixed", "portrait"):
        assert card["data"][kind] == DigitScenes("train", 4, recipe.seed, objects=kind).fingerprint
    assert card["weights"] == {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.safetensors")
    }
    assert set(card["weights"]) == {"unet", "vae", "text_encoder"}
