"""Each bundled vision miniature loads by timm or open_clip alone and names held-out digits as well as its card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file

import attention_chains.models
from attention_chains.data.digit_scenes import DIGITS, DigitScenes

BUNDLED = Path(attention_chains.models.__file__).parent / "minis"
NAMES = ("vit", "clip", "dinov1", "dinov2")
COUNT = 100


@pytest.fixture(scope="module")
def scenes():
    """Held-out images (100, 3, 64, 64) in [0, 1] and their labels (100,)."""
    samples = [DigitScenes("test", COUNT, word="digit")[index] for index in range(COUNT)]
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2) / 255
    return images, torch.tensor([DIGITS.index(sample.word) for sample in samples])


def normalised(images, mean, std):
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def by_clip(folder, images):
    """Zero-shot: similarity with the text "A photo of a <class>."."""
    clip = open_clip.create_model(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    settings = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    text = clip.eval().encode_text(tokenizer([f"A photo of a {name}." for name in DIGITS]), normalize=True)
    return clip.encode_image(normalised(images, settings["mean"], settings["std"])) @ text.T


def by_timm(folder, images):
    """The classifier's logits, or those of the linear head on frozen features."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = network.pretrained_cfg
    pixels = normalised(images, config["mean"], config["std"])
    if not (folder / "head.safetensors").exists():
        return network(pixels)
    head = {key.rpartition(".")[2]: value.float() for key, value in load_file(folder / "head.safetensors").items()}
    layers = network.get_intermediate_layers(pixels, n=4, return_prefix_tokens=True, norm=True)
    features = [prefix[:, 0] for _, prefix in layers]
    if folder.name == "dinov2":
        features.append(layers[-1][0].mean(1))
    return torch.cat(features, -1) @ head["weight"].T + head["bias"]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_it_names_held_out_digits_as_well_as_its_card_says(name, scenes):
    images, labels = scenes
    logits = (by_clip if name == "clip" else by_timm)(BUNDLED / name, images)
    share = json.loads((BUNDLED / name / "training.json").read_text())["accuracy"] / 100
    expected = share * COUNT - 3 * (COUNT * share * (1 - share)) ** 0.5  # three deviations of a hundred draws
    assert (logits.argmax(1) == labels).sum() >= expected


@pytest.mark.parametrize("name", NAMES)
def test_its_card_and_record_are_of_these_weights(name):
    folder = BUNDLED / name
    record, card = json.loads((folder / "training.json").read_text()), (folder / "README.md").read_text()
    weights = list(folder.glob("*.safetensors"))
    assert record["weights"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    assert f"{record['accuracy']} %" in card and f"{record['scenes']} held-out scenes" in card
    assert record["command"] in card and record["data"] in card and f"{record['minutes']} minutes" in card
    assert sum(path.stat().st_size for path in weights) < 6e6


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_in_the_script_is_the_one_of_the_record(name, scripts):
    import importlib
    from dataclasses import asdict, is_dataclass

    module = importlib.import_module(f"minis.{name}")
    recipe = next(
        value
        for key, value in vars(module).items()
        if is_dataclass(value) and key.endswith("Recipe") and key != "Recipe"
    )
    record = json.loads((BUNDLED / name / "training.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(asdict(recipe())))


@pytest.mark.parametrize("name", ["dinov1", "dinov2"])
def test_registers_are_those_of_its_family(name):
    network = timm.create_model(f"local-dir:{BUNDLED / name}", pretrained=True)
    assert network.num_reg_tokens == (4 if name == "dinov2" else 0)
