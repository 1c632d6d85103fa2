"""Every task, run whole on a GPU that is pretended (tests/fixtures/pretend_gpu.py), measures what a CPU does."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from pretend_gpu import pretended, waits

from attention_chains import tasks
from attention_chains.records.vectors import unpack

RUNS = {
    "segmentation": ["task=segmentation", "model=flux", "method=outgoing", "data.n=1"],
    "segments": ["task=segments", "model=sd15", "method=diffseg", "data.n=1"],
    "diffseg": ["task=diffseg", "model=sd15", "method=tokenrank_grid", "data.n=1"],
    "generation": [
        *("task=generation", "model=sd15", "method=sag_tokenrank", "model.steps=2", "task.width=2"),
        *("data.n=2", "data.kid_subset=2", "data.reference_n=4"),
    ],
    "masking": ["task=masking", "model=vit", "method=tokenrank", "data.n=2", "task.fractions=3"],
    "masking with registers": ["task=masking", "model=dinov2", "method=column_sum", "data.n=2", "task.fractions=3"],
    "masking of CLIP": ["task=masking", "model=clip", "method=cls", "data.n=2", "task.fractions=3"],
    "probing": [
        *("task=probing", "model=dinov1", "method=tokenrank", "data.n=8", "data.train=16", "batch_size=8"),
        "task.epochs=1",
    ],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_a_gpu_measures_what_a_run_on_the_cpu_does(name, configured, tmp_path):
    expected = records(configured(*RUNS[name], "device=cpu", "logger=none"), tmp_path / "cpu")
    with pretended():
        found = records(configured(*RUNS[name], "device=cuda:0", "logger=none"), tmp_path / "gpu")
        assert any(wait.startswith("_to_copy") for wait in waits), "nothing came from the GPU"
    assert found.keys() == expected.keys()
    for sample in expected:
        assert_close(found[sample], expected[sample])


def records(config, folder) -> dict[str, Any]:
    config = dataclasses.replace(config, out=str(folder))
    tasks.run(tasks.build(config), config)
    lines = [json.loads(line) for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]
    return {line["id"]: line["stats"] for line in lines if "stats" in line}


def assert_close(found: Any, expected: Any) -> None:
    """Numbers to 1e-3: attention is computed by other kernels, and rounded otherwise."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, str):
        np.testing.assert_allclose(unpack(found), unpack(expected), rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_records_are_read_where_there_is_neither_a_gpu_nor_room_for_the_model(configured, tmp_path):
    config = dataclasses.replace(configured(*RUNS["masking"], "device=cpu", "logger=none"), out=str(tmp_path))
    tasks.run(tasks.build(config), config)
    elsewhere = dataclasses.replace(config, device="cuda:0", model=dataclasses.replace(config.model, memory_gb=1e6))
    found = tasks.recorded(elsewhere)
    assert found is not None and found.complete


def test_the_papers_models_do_not_start_on_a_cpu_unasked(configured, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sentence = "No GPU is visible, and scale=paper would run on the CPU: set device=cpu if that is meant."
    for device, told in (("auto", True), ("cpu", False)):
        config = dataclasses.replace(configured(*RUNS["masking"]), scale="paper", device=device)
        assert (sentence in tasks.build(config).missing()) == told
