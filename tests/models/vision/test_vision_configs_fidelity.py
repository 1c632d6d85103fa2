"""The YAML of every model names a checkpoint that exists, as the protocol lists it, and nothing that was made up."""

from __future__ import annotations

import re
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import yaml

from attention_chains import models
from attention_chains.config.schema import Checkpoint, ModelConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "model"
VISION = {
    path.stem: config
    for path in sorted(CONFIGS.glob("*.yaml"))
    if (config := yaml.safe_load(path.read_text())).get("family") in ("vit", "clip", "dinov1", "dinov2")
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
STATISTICS = {"vit": ((0.5,) * 3,) * 2, "clip": CLIP, "dinov1": IMAGENET, "dinov2": IMAGENET}
HEADS = {
    "dinov1": "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_linearweights.pth",
    "dinov1_b8": "https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_linearweights.pth",
    "dinov1_s16": "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_linearweights.pth",
    "dinov1_s8": "https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/dino_deitsmall8_linearweights.pth",
    "dinov2": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_linear4_head.pth",
    "dinov2_b14": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_linear4_head.pth",
    "dinov2_l14": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_reg4_linear4_head.pth",
}
COMMITS = {  # as public pages of their repositories name them
    "vit_l16": "0930ab3308b84cb2ae091a4a80703c459412a4c7",
    "dinov2_b14": "0ea2886789fa4e02eb26c1ed4c7080d25abcfb59",
    "dinov1": "9578d3895b3c81965d4fb6de0ffb14491b6fc8f9",
    "dinov1_b8": "943c780d9dd8362269b2abcb1cb83b984a6d229e",
    "dinov1_s16": "733b42a211ebe03aa7327050699cfcee7cd96123",
    "dinov1_s8": "1e26d402048865ad71f26f814c0d9f691254db37",
    "dinov2": "788f50961a4cf5d639e54a0f3c30e17476d346fc",
}
PATCHES = {"vit": 16, "vit_l16": 16, "clip": 32, "clip_b16": 16, "clip_l14": 14, "clip_l14_336": 14} | {
    "dinov1": 16, "dinov1_b8": 8, "dinov1_s16": 16, "dinov1_s8": 8, "dinov2": 14, "dinov2_b14": 14, "dinov2_l14": 14
}  # fmt: skip


def test_every_model_of_the_protocol_has_a_file():
    assert set(VISION) == set(PATCHES)


@pytest.mark.parametrize("name", VISION)
def test_the_source_is_a_checkpoint_that_timm_knows_with_the_familys_statistics_and_patch(name):
    config, paper = VISION[name], VISION[name]["at"]["paper"]
    pretrained = timm.get_pretrained_cfg(paper["source"].removeprefix("timm/"), allow_unregistered=False)
    assert pretrained.hf_hub_id == paper["source"]
    assert (tuple(pretrained.mean), tuple(pretrained.std)) == STATISTICS[config["family"]]
    assert f"patch{PATCHES[name]}_" in paper["source"]
    assert paper["image_size"] % PATCHES[name] == 0


@pytest.mark.parametrize("name", [name for name, config in VISION.items() if config["family"] == "clip"])
def test_openais_clips_are_the_repositories_that_open_clip_fetches_for_its_quickgelu_names(name):
    architecture = {"clip": "ViT-B-32", "clip_b16": "ViT-B-16", "clip_l14": "ViT-L-14", "clip_l14_336": "ViT-L-14-336"}
    known = open_clip.get_pretrained_cfg(f"{architecture[name]}-quickgelu", "openai")
    paper = VISION[name]["at"]["paper"]
    assert known["hf_hub"].rstrip("/") == paper["source"]
    assert open_clip.get_model_config(f"{architecture[name]}-quickgelu")["quick_gelu"]
    assert open_clip.get_model_config(architecture[name])["vision_cfg"]["image_size"] == paper["image_size"]
    assert paper["classes"] == "imagenet"


@pytest.mark.parametrize("name", HEADS)
def test_the_heads_are_the_published_ones(name):
    assert VISION[name]["at"]["paper"]["head"] == HEADS[name]


@pytest.mark.parametrize("name", COMMITS)
def test_the_pins_are_the_commits_that_were_looked_up(name):
    assert VISION[name]["at"]["paper"]["revision"] == COMMITS[name]


@pytest.mark.parametrize("name", VISION)
def test_a_pin_is_a_whole_hash_and_a_missing_one_is_said_in_the_file(name):
    paper, text = VISION[name]["at"]["paper"], (CONFIGS / f"{name}.yaml").read_text()
    assert paper["revision"] is None or re.fullmatch("[0-9a-f]{40}", paper["revision"])
    assert (paper["revision"] is None) == ("No pinned revision" in text)
    if "head" in paper:
        assert paper["head_sha256"] is None or re.fullmatch("[0-9a-f]{64}", paper["head_sha256"])
        assert (paper["head_sha256"] is None) == ("SHA-256 of the head is not published" in text)


@pytest.mark.parametrize("name", [name for name, config in VISION.items() if "head" in config["at"]["paper"]])
def test_a_head_without_a_hash_is_missing_before_anything_runs(name, monkeypatch):
    paper = VISION[name]["at"]["paper"]
    monkeypatch.setattr(models.assets, "missing", lambda *_: ["The weights."])
    model = ModelConfig(name=name, family=VISION[name]["family"], at={}, **vars(Checkpoint(**paper)))
    *pin, weights, head = models.missing(model, torch.device("cpu"))
    assert weights == "The weights."
    assert bool(pin) == (paper.get("revision") is None) and all("set model.revision" in sentence for sentence in pin)
    assert head.startswith(f"The SHA-256 of {paper['head']} is not known") and "model.head_sha256" in head
