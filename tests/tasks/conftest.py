"""Segmentation runs on a tiny model with random weights, configured as run.py configures them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from attention_chains import tasks
from attention_chains.config import RunConfig, register, resolve
from attention_chains.tasks import Outcome

ROOT = Path(__file__).resolve().parents[2]
WNIDS = {"n02123045": "cat", "n02084071": "dog"}


@pytest.fixture(scope="session")
def configured() -> Callable[..., RunConfig]:
    """Overrides in, resolved run out."""
    register(ROOT / "configs")

    @functools.cache
    def composed(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return resolve(compose("config", list(overrides)), overrides)

    return lambda *overrides: copy.deepcopy(composed(*overrides))


@pytest.fixture(scope="session")
def small(tiny_flux: Path) -> list[str]:
    """Overrides for five scenes and the tiny model: 64 image tokens, no logger."""
    size = ["model.image_size=32", "model.dual_layers=[0,1]", "model.single_layers=[0,1]"]
    data = ["data.n=5", "data.eval_size=32"]
    return [f"model.source={tiny_flux}", *size, *data, "logger=none", "device=cpu"]


@pytest.fixture
def segment(configured: Callable[..., RunConfig], small: list[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Run the small segmentation, changed by overrides; results go to `out` in the folder of the test."""

    def run(*overrides: str, out: str = "results") -> Outcome:
        config = dataclasses.replace(configured(*small, *overrides), out=str(tmp_path / out))
        return tasks.run(tasks.build(config), config)[0]

    return run


@pytest.fixture(scope="session")
def program() -> ModuleType:
    """run.py as a module."""
    spec = importlib.util.spec_from_file_location("run_program", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Arguments in; exit status, stdout and stderr of run.py out, in this process and in an empty folder."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # run.py changes it: to be put back afterwards
    monkeypatch.chdir(tmp_path)
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
        program.config.register(program.CONFIGS)
        status = 0
        try:
            program.launch.command_line(program.job, program.CONFIGS)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    yield run
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def gtsegs(tmp_path: Path) -> list[str]:
    """Overrides for ImageNet-Segmentation: a file of two images in the published layout (protocol 1.1), and words."""
    path, words = tmp_path / "gtsegs_ijcv.mat", tmp_path / "words.json"
    words.write_text(json.dumps(WNIDS))
    draw = np.random.default_rng(0)
    with h5py.File(path, "w", userblock_size=512) as file:
        fields = {name: [] for name in ("img", "gt", "id", "target")}
        for number, wnid in enumerate(WNIDS):
            height, width = 40 + 10 * number, 60
            mask = np.zeros((1, height, width), np.uint8)
            mask[0, 5:30, 10:40] = 1
            inner = _stored(file, f"mask{number}", mask[0].T)
            codes = np.frombuffer(f"{wnid}_{number}".encode("utf-16-le"), "<u2")[:, None]
            fields["img"].append(_stored(file, f"img{number}", draw.integers(0, 256, (3, width, height), np.uint8)))
            fields["gt"].append(_stored(file, f"gt{number}", np.array([[inner]], h5py.ref_dtype)))
            fields["id"].append(_stored(file, f"id{number}", codes))
            fields["target"].append(_stored(file, f"target{number}", np.array([[1.0]])))
        for name, references in fields.items():
            file[f"value/{name}"] = np.array(references, h5py.ref_dtype)[:, None]
    return [f"data.path={path}", f"data.words={words}"]


def _stored(file: h5py.File, name: str, data: np.ndarray) -> h5py.Reference:
    return file.require_group("#refs#").create_dataset(name, data=data).ref
