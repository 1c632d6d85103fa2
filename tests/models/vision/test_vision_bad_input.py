"""What a vision model cannot do is said in one sentence when it is loaded; a bad image, when it is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attention_chains import models
from attention_chains.data.errors import DataError
from attention_chains.models import AssetError

FAMILIES = ("vit", "clip", "dinov1", "dinov2")
WEIGHTS = {"clip": "open_clip_model.safetensors"}
CONFIG = {"clip": "open_clip_config.json"}
POSITIONS = {"clip": "visual.positional_embedding"}


@pytest.fixture
def refusal(load):
    def refuse(family: str, source: Path | str, kind: type[Exception] = AssetError, **settings: object) -> str:
        with pytest.raises(kind) as refused:
            load(family, **{"source": str(source), "image_size": 32, **settings})
        assert "\n" not in str(refused.value) and str(refused.value).endswith(".")
        return str(refused.value)

    return refuse


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of a tiny network, to be damaged."""
    return lambda family: shutil.copytree(tiny(family).folder, tmp_path / family)


def rewrite(folder: Path, family: str, change) -> None:
    path = folder / WEIGHTS.get(family, "model.safetensors")
    weights = dict(load_file(path))
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [4, 30, 0])
def test_a_size_smaller_than_a_patch_or_not_a_multiple_of_it_is_refused(tiny, refusal, family, size):
    sentence = refusal(family, tiny(family).folder, image_size=size)
    assert f"model.image_size is {size}" in sentence and "8 pixels wide: choose a multiple" in sentence


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_another_grid_are_refused_where_the_library_would_interpolate(copy, refusal, family):
    folder = copy(family)
    name = POSITIONS.get(family, "pos_embed")

    def cut(weights: dict) -> None:
        weights[name] = weights[name][:10] if family == "clip" else weights[name][:, :10]

    rewrite(folder, family, cut)
    sentence = refusal(family, folder)
    assert "have 10 position embeddings" in sentence and f"takes {16 + (family != 'dinov2')}" in sentence


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_lack_a_layer_are_refused_with_its_name(copy, refusal, family):
    folder = copy(family)
    lost = "visual.ln_post.weight" if family == "clip" else "norm.weight"
    rewrite(folder, family, lambda weights: weights.pop(lost))
    sentence = refusal(family, folder)
    assert str(folder) in sentence and lost in sentence


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_cut_off_are_refused(copy, refusal, family):
    folder = copy(family)
    weights = folder / WEIGHTS.get(family, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights.name} of {folder} cannot be read" in refusal(family, folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("content", ["{", "{}", '{"architecture": "vit_of_no_one"}'])
def test_a_config_that_makes_no_network_is_refused(copy, refusal, family, content):
    folder = copy(family)
    config = folder / CONFIG.get(family, "config.json")
    config.write_text(content)
    assert f"The {config.name} of {folder}" in refusal(family, folder)


def test_another_kind_of_network_is_refused(copy, refusal):
    folder = copy("vit")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 10}))
    assert "makes a ResNet that is no vision transformer" in refusal("vit", folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_the_familys_files_is_named_with_the_one_that_is_not_there(tiny, copy, refusal, family):
    index = CONFIG.get(family, "config.json")
    other = tiny("clip" if family != "clip" else "vit").folder
    assert f"{other} holds no model (no {index}): set model.source" in refusal(family, other)
    folder = copy(family)
    (folder / WEIGHTS.get(family, "model.safetensors")).unlink()
    assert f"{folder} is not whole: {WEIGHTS.get(family, 'model.safetensors')}" in refusal(family, folder)


@pytest.mark.parametrize("family", ["vit", "clip"])
def test_a_head_is_refused_where_the_classifier_comes_with_the_weights(tiny, refusal, family):
    sentence = refusal(family, tiny(family).folder, head="head.safetensors")
    assert f"model.head is for dinov1 and dinov2, not for {family}" in sentence


def test_a_supervised_model_without_a_classifier_is_refused(tiny, refusal):
    assert "has no classifier" in refusal("vit", tiny("dinov1").folder)


@pytest.mark.parametrize("family", ["dinov1", "dinov2"])
def test_a_head_of_another_width_is_refused_with_both_widths(tiny, head_file, refusal, family):
    right = {"dinov1": 128, "dinov2": 160}[family]
    sentence = refusal(family, tiny(family).folder, head=str(head_file(family, 96)))
    assert f"takes 96 features, but the network gives {right}" in sentence and "model.head" in sentence


def test_a_head_of_the_other_family_is_refused(tiny, head_file, refusal):
    assert "no 'module.linear.weight'" in refusal("dinov1", tiny("dinov1").folder, head=str(head_file("dinov2", 128)))
    assert "no 'weight'" in refusal("dinov2", tiny("dinov2").folder, head=str(head_file("dinov1", 160)))


@pytest.mark.parametrize("family", ["dinov1", "dinov2"])
def test_without_a_head_there_are_no_logits_and_the_sentence_says_what_to_set(tiny, load, photographs, family):
    model = load(family, source=str(tiny(family).folder), image_size=32)
    assert model.classes == 0
    with pytest.raises(AssetError, match=r"without a classifier: set model\.head"):
        model.logits(model.pixels(photographs))


@pytest.mark.parametrize("family", ["vit", "dinov1", "dinov2"])
@pytest.mark.parametrize("names", [["cat", "dog"], "imagenet"])
def test_a_class_list_of_the_wrong_length_is_refused_with_both_numbers(tiny, head_file, refusal, family, names):
    widths = {"dinov1": 128, "dinov2": 160}
    head = {"head": str(head_file(family, widths[family], 10))} if family in widths else {}
    sentence = refusal(family, tiny(family).folder, classes=names, **head)
    assert (
        f"names {2 if isinstance(names, list) else 1000} classes" in sentence and "has 10: name each once" in sentence
    )


def test_a_class_list_of_the_right_length_is_accepted(tiny, load):
    assert load("vit", source=str(tiny("vit").folder), image_size=32, classes="digits").classes == 10


@pytest.mark.parametrize("content", ["", "cat\n\ndog\n", "cat\n  \n"])
def test_a_file_of_class_names_with_nothing_or_an_empty_line_is_refused(tiny, refusal, tmp_path, content):
    (tmp_path / "names.txt").write_text(content)
    assert "none or an empty name" in refusal("clip", tiny("clip").folder, classes=str(tmp_path / "names.txt"))


def test_a_file_of_class_names_that_is_not_there_is_refused_with_the_lists_there_are(tiny, refusal):
    sentence = refusal("clip", tiny("clip").folder, classes="no/such/file")
    assert "model.classes is 'no/such/file'" in sentence and "imagenet" in sentence and "digits" in sentence


def test_a_tokenizer_that_is_not_there_or_another_models_is_refused(copy, refusal):
    folder = copy("clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "its own"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert f"The tokenizer of {folder} cannot be loaded" in refusal("clip", folder)
    del config["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    config["model_cfg"]["text_cfg"]["vocab_size"] = 99
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    rewrite(folder, "clip", lambda weights: weights.update({"token_embedding.weight": torch.zeros(99, 32)}))
    sentence = refusal("clip", folder)
    assert "but its text tower knows 99" in sentence and "hf_tokenizer_name" in sentence


def test_an_unknown_way_to_a_square_is_refused(tiny, refusal):
    assert "choose squash or crop" in refusal("vit", tiny("vit").folder, resize="stretch")


@pytest.mark.parametrize("shape", [(7, 40, 3), (40, 7, 3), (1, 1, 3)])
def test_an_image_smaller_than_a_patch_is_refused(tiny, load, shape):
    model = load("vit", source=str(tiny("vit").folder), image_size=32)
    with pytest.raises(DataError, match=f"{shape[0]} x {shape[1]} pixels is smaller than one patch .* 8 pixels"):
        model.pixels([np.zeros(shape, np.uint8)])


@pytest.mark.parametrize(
    "image", [np.zeros((40, 40, 3)), np.zeros((40, 40), np.uint8), np.zeros((40, 40, 4), np.uint8)]
)
def test_an_array_that_is_no_image_is_refused(tiny, load, image):
    model = load("vit", source=str(tiny("vit").folder), image_size=32)
    with pytest.raises(DataError, match=r"takes \(height, width, 3\) of uint8"):
        model.pixels([image])


def test_every_family_is_told_where_there_is_none():
    with pytest.raises(AssetError, match=r"choose one of flux, sd15, vit, clip, dinov1, dinov2\.$"):
        models.load("resnet", source="", device=torch.device("cpu"))
