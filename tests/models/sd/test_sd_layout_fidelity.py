"""What is fetched of a Stable Diffusion repository, what its folder must have, and what its hash is of."""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from attention_chains.config.schema import Checkpoint
from attention_chains.models import AssetError
from attention_chains.models.assets import local_folder, weights_digest
from attention_chains.models.layouts import STABLE_DIFFUSION

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "model"
NEEDED = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
BESIDE = (  # in the repositories, and no part of the model
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
)


@pytest.fixture
def copy(tiny_sd, tmp_path) -> Path:
    return shutil.copytree(tiny_sd, tmp_path / "copy")


def write(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")


def fetched(name: str) -> bool:
    """As the hub's client reads the patterns."""
    kept, left = (
        [fnmatchcase(name, pattern) for pattern in each] for each in (STABLE_DIFFUSION.kept, STABLE_DIFFUSION.left)
    )
    return any(kept) and not any(left)


def test_of_the_repository_each_weight_is_fetched_once_and_nothing_that_judges_images():
    assert [name for name in (*NEEDED, *BESIDE) if fetched(name)] == list(NEEDED)


def test_a_folder_of_the_repositorys_files_is_whole_and_hashes_what_is_fetched_of_it(tmp_path):
    for name in (*NEEDED, *BESIDE):
        write(tmp_path, name)
    assert local_folder(str(tmp_path), layout=STABLE_DIFFUSION) == tmp_path
    assert [file.relative_to(tmp_path).as_posix() for file in STABLE_DIFFUSION.files(tmp_path)] == list(NEEDED[1:])


@pytest.mark.parametrize("absent", [name for name in NEEDED if not re.search("special|tokenizer_config", name)])
def test_a_file_that_is_not_there_is_missed_whatever_lies_beside_it(tmp_path, absent):
    for name in (*NEEDED, *BESIDE):
        if name != absent:
            write(tmp_path, name)
    with pytest.raises(AssetError, match=re.escape(absent.split("/")[0])):
        local_folder(str(tmp_path), layout=STABLE_DIFFUSION)


def test_the_digest_is_of_the_parts_and_not_of_what_lies_beside_them(tiny_sd, copy):
    def digest(folder):
        return weights_digest(str(folder), layout=STABLE_DIFFUSION)

    for name in BESIDE:
        write(copy, name)
    assert digest(copy) == digest(tiny_sd)
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"steps_offset": 1', '"steps_offset": 0'))
    assert digest(copy) != digest(tiny_sd)


@pytest.mark.parametrize("name", ["sd15", "sd14"])
def test_a_checkpoint_is_pinned_and_is_the_protocols(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    paper = Checkpoint(**config["at"]["paper"])
    sources = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd14": "CompVis/stable-diffusion-v1-4"}
    assert (config["name"], config["family"], paper.source) == (name, "sd15", sources[name])
    assert re.fullmatch("[0-9a-f]{40}", paper.revision)
    assert (paper.image_size, paper.steps, paper.dtype) == (512, 50, "float16")
