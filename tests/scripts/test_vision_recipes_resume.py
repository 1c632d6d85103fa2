"""The recipes of the vision miniatures make folders that timm and open_clip load, and the same bits after a kill."""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file

NAMES = {"vit": "ViTRecipe", "clip": "CLIPRecipe", "dinov1": "DINORecipe", "dinov2": "DINOv2Recipe"}
STEPS = 3


def recipe_of(name):
    """The recipe with three steps on four backgrounds; what else it says stays."""
    from minis.loop import Recipe

    module = importlib.import_module(f"minis.{name}")
    whole = getattr(module, NAMES[name])()
    stage = next(field for field, value in vars(whole).items() if isinstance(value, Recipe))
    short = Recipe(**{**asdict(getattr(whole, stage)), "steps": STEPS, "log_every": 1, "save_every": 1})
    sizes = {"backgrounds": 4, "scenes": 16, stage: short}
    if hasattr(whole, "head_scenes"):
        sizes["head_scenes"] = 128
    return module, type(whole)(**sizes)


@pytest.fixture(scope="module", params=list(NAMES))
def built(request, scripts, tmp_path_factory):
    """Name, recipe, folder of an undisturbed training, folder of one that was killed in its last step."""
    from minis import distil, vision
    from minis.canvas import Canvas

    module, recipe = recipe_of(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        for place in (module, distil, vision):
            patch.setattr(place, "BATCH", 16, raising=False)
        yield from _trained_twice(request.param, module, recipe, folder, Canvas)


def _trained_twice(name, module, recipe, folder, canvas):
    module.build(folder / "work", folder / "whole", recipe)
    paint, calls = canvas.paint, []

    def killed(*arguments, **settings):
        calls.append(1)
        if len(calls) == STEPS:
            raise KeyboardInterrupt
        return paint(*arguments, **settings)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(canvas, "paint", killed)
        module.build(folder / "killed", folder / "cut", recipe)
    module.build(folder / "killed", folder / "cut", recipe)
    yield name, recipe, folder / "whole", folder / "cut"


def test_a_killed_training_ends_in_the_same_weights(built):
    _, _, whole, cut = built
    names = sorted(path.name for path in whole.glob("*.safetensors"))
    assert names and names == sorted(path.name for path in cut.glob("*.safetensors"))
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


def test_training_changed_every_matrix_that_is_kept(built):
    name, recipe, whole, _ = built
    torch.manual_seed(recipe.seed)
    module = importlib.import_module(f"minis.{name}")
    if name == "clip":
        fresh = module.Contrastive(len(module.open_clip_tokenizer(module.LENGTH))).clip
    else:
        fresh = module.new_transformer(module.ARCHITECTURE, module.SIZES)
    kept = load_file(whole / ("open_clip_model.safetensors" if name == "clip" else "model.safetensors"))
    assert kept.keys() == fresh.state_dict().keys()
    matrices = {key: value.half() for key, value in fresh.state_dict().items() if value.ndim > 1}
    assert not {key for key, value in matrices.items() if torch.equal(value, kept[key])}


def test_its_record_names_recipe_data_and_the_hash_of_every_file_of_weights(built):
    name, recipe, whole, cut = built
    record = json.loads((whole / "training.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert record["command"] == f"python scripts/train_minis.py {name}"
    assert record["data"] == json.loads((cut / "training.json").read_text())["data"]
    assert record["weights"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in whole.glob("*.safetensors")
    }
    assert 0 <= record["accuracy"] <= 100 and record["scenes"] == 16
    assert len(list(whole.glob("*.csv"))) == 1


def test_timm_or_open_clip_alone_loads_the_folder(built):
    name, _, whole, _ = built
    pixels = torch.zeros(1, 3, 64, 64)
    if name == "clip":
        clip = open_clip.create_model(f"local-dir:{whole}")
        text = open_clip.get_tokenizer(f"local-dir:{whole}")(["A photo of a three."])
        assert clip.encode_image(pixels).shape == clip.encode_text(text).shape == (1, 64)
        return
    network = timm.create_model(f"local-dir:{whole}", pretrained=True)
    assert network.num_prefix_tokens == (5 if name == "dinov2" else 1)
    assert network.forward_features(pixels).shape == (1, network.num_prefix_tokens + 64, 128)
    assert network(pixels).shape == (1, 10 if name == "vit" else 128)


def test_the_heads_have_the_published_names_and_sizes(built):
    name, _, whole, _ = built
    if name not in ("dinov1", "dinov2"):
        assert not (whole / "head.safetensors").exists()
        return
    prefix, width = ("module.linear.", 4 * 128) if name == "dinov1" else ("", 5 * 128)
    shapes = {key: tuple(value.shape) for key, value in load_file(whole / "head.safetensors").items()}
    assert shapes == {f"{prefix}weight": (10, width), f"{prefix}bias": (10,)}
