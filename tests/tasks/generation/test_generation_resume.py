"""A run that is interrupted keeps every finished sample, whole, and ends in the same bytes when it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_chains.models import AssetError
from attention_chains.models.sd15 import StableDiffusion
from attention_chains.records import RecordError, ShardStore, read_run
from attention_chains.tasks import pictures

ROOT = Path(__file__).resolve().parents[3]
METHODS = ("none", "sag_tokenrank")


@pytest.fixture
def drawn(monkeypatch):
    """Seeds whose latents were drawn."""
    seen, noise = [], StableDiffusion.noise

    def watched(self, seeds, size=None):
        seen.extend(seeds)
        return noise(self, seeds, size)

    monkeypatch.setattr(StableDiffusion, "noise", watched)
    return seen


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".png", ".jsonl", ".safetensors")
    }


def test_an_interrupted_run_goes_on_with_the_rest_of_its_batch(generate, drawn, monkeypatch):
    undisturbed = generate(several=METHODS, out="undisturbed")
    append, kept = ShardStore.append, []

    def failing(store, record):
        if len(kept) == 3:  # the first of the second batch of two is kept
            raise KeyboardInterrupt
        append(store, record)
        kept.append(record)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardStore, "append", failing)
        generate(several=METHODS)
    drawn.clear()
    outcome = generate(several=METHODS)
    assert len(set(drawn)) == 2 and outcome.records == undisturbed.records
    assert contents(outcome.folder) == contents(undisturbed.folder)


def test_a_sample_is_recorded_before_the_next_ones_pictures_are_written(generate, monkeypatch):
    done, write, append = [], pictures.write_picture, ShardStore.append
    monkeypatch.setattr(
        "attention_chains.tasks.generation.write_picture", lambda *args: (write(*args), done.append(args[0].stem))
    )
    monkeypatch.setattr(ShardStore, "append", lambda *args: (append(*args), done.append("kept")))
    generate("data.n=3", several=METHODS)
    assert done == [part for name in ("00000", "00001", "00002") for part in (name, name, "kept")]


def test_a_picture_that_a_killed_run_left_without_a_record_is_replaced(generate):
    undisturbed = generate(out="undisturbed")
    folder = undisturbed.folder.parents[2] / "results" / "runs" / undisturbed.folder.name / "images" / "sag_tokenrank"
    folder.mkdir(parents=True)
    (folder / "00001.png").write_bytes(b"of another machine")
    assert contents(generate().folder) == contents(undisturbed.folder)


def test_a_picture_that_cannot_be_written_leaves_no_half_of_one(tmp_path, monkeypatch):
    image, path = np.zeros((8, 8, 3), np.uint8), tmp_path / "images" / "none" / "00000.png"

    def full(file, data):
        file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "append_durably", full)
    with pytest.raises(RecordError, match=r"No space left on device.*finished samples are kept"):
        pictures.write_picture(path, image)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("label", "step"), [("none", 3), ("sag_tokenrank", 1)])
def test_nan_latents_are_one_sentence_and_what_was_generated_before_is_kept(generate, monkeypatch, label, step):
    undisturbed = generate("data.n=4", several=(label,), out="undisturbed")
    predict, calls = StableDiffusion.predict, []
    bad = 5 if label == "none" else 9  # the second prediction of the second batch: two steps of PNDM are three of them

    def failing(self, latents, timestep, context):
        noise = predict(self, latents, timestep, context)
        calls.append(timestep)
        if len(calls) == bad:
            noise[1, 0, 0, 0] = float("nan")
        return noise

    with monkeypatch.context() as patch, pytest.raises(AssetError) as refused:
        patch.setattr(StableDiffusion, "predict", failing)
        generate("data.n=4", several=(label,))
    sentence = str(refused.value)
    assert f"sample 00003 with {label} after {step} steps in float32" in sentence and "kept" in sentence
    assert "\n" not in sentence
    folder = undisturbed.folder.parents[2] / "results" / "runs" / undisturbed.folder.name
    assert read_run(folder) == undisturbed.records[:2]
    assert {path.name for path in folder.rglob("*.png")} == {"00000.png", "00001.png"}
    assert generate("data.n=4", several=(label,)).records == undisturbed.records


@pytest.mark.slow  # starts run.py three times
def test_killed_by_the_system_the_same_command_ends_in_the_same_bytes(generate, small, tmp_path):
    settings = ["data.n=12", "method=sag_tokenrank"]
    undisturbed = generate(*settings)
    command = [sys.executable, "run.py", *small, *settings, f"out={tmp_path / 'killed'}"]
    folder = tmp_path / "killed" / "runs" / undisturbed.folder.name
    path = folder / "shard-00000-of-00001.jsonl"
    for wanted in (3, 8):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)
        while not path.exists() or path.read_bytes().count(b"\n") <= wanted:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for record in read_run(folder):
            picture = Image.open(folder / "images" / "sag_tokenrank" / f"{record['id']}.png")
            picture.load()  # whole
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(undisturbed.folder)
