"""Features and classifiers that are there are not computed again, and what was interrupted ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from attention_chains.config import MethodConfig
from attention_chains.data.digit_classes import DigitClasses
from attention_chains.models.vision import Vision
from attention_chains.tasks import probing
from attention_chains.tasks.extraction import FeatureSet
from attention_chains.tasks.features import Features, alone_in, make_features, open_features

ROOT = Path(__file__).resolve().parents[3]
TWO = {"rank": MethodConfig(name="tokenrank", power=20), "row": MethodConfig(name="random_row")}


def bytes_below(folder: Path, *kinds: str) -> dict[str, bytes]:
    files = sorted(path for kind in kinds for path in folder.rglob(f"*{kind}"))
    assert files
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Sizes of the batches that went through a model."""
    found: list[int] = []
    forward = Vision.forward
    monkeypatch.setattr(Vision, "forward", lambda self, pixels: found.append(len(pixels)) or forward(self, pixels))
    return found


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """Numbers of images of the trainings."""
    found: list[int] = []
    train = probing.train
    monkeypatch.setattr(probing, "train", lambda *given: found.append(len(given[1])) or train(*given))
    return found


@pytest.fixture
def strategies():
    return [probing.strategy(spec, "maps", 0) for spec in TWO.values()]


@pytest.mark.parametrize("writes", [0, 1, 2, 5])
def test_features_interrupted_anywhere_end_in_the_same_bytes(vision, scenes, strategies, tmp_path, monkeypatch, writes):
    FeatureSet(scenes, tmp_path / "undisturbed", "x", {}, 4, False).features(strategies, lambda: vision)
    write, done = Features.write, []

    def killed(self, rows, values):
        if len(done) == writes:
            self._values[rows[:2]] = values[:2]  # half-written, not marked
            raise KeyboardInterrupt
        done.append(rows)
        write(self, rows, values)

    again = FeatureSet(scenes, tmp_path / "killed", "x", {}, 4, False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Features, "write", killed)
        again.features(strategies, lambda: vision)
    FeatureSet(scenes, tmp_path / "killed", "x", {}, 4, False).features(strategies, lambda: vision)
    found, expected = (bytes_below(tmp_path / name, ".npy", ".rows", ".json") for name in ("killed", "undisturbed"))
    assert found == expected


def test_only_what_is_missing_is_computed(vision, scenes, strategies, tmp_path, passes):
    part = FeatureSet(scenes, tmp_path, "x", {}, 4, False)
    first, second = strategies
    part.features([first], lambda: vision)
    assert passes == [1, 4, 4, 3]
    passes.clear()
    part.features([first], lambda: pytest.fail("the model was loaded"))
    found = part.features(strategies, lambda: vision)
    assert passes == [1, 4, 4, 3] and all(features.complete for features in found.values())
    passes.clear()
    found[second.name]._written[5] = 0  # one row of the second block
    part.features(strategies, lambda: vision)
    assert passes == [4]


@pytest.mark.parametrize("damage", ["npy", "rows", "json"])
def test_features_that_are_not_whole_are_computed_anew(vision, scenes, strategies, tmp_path, damage):
    part = FeatureSet(scenes, tmp_path, "x", {}, 4, False)
    part.features(strategies, lambda: vision)
    whole = bytes_below(tmp_path, ".npy", ".rows", ".json")
    for path in part.folder.glob(f"*.{damage}"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    part.features(strategies, lambda: vision)
    assert bytes_below(tmp_path, ".npy", ".rows", ".json") == whole


def test_a_process_waits_until_another_is_done_or_dead(tmp_path):
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], **pipes)
    other.stdout.readline()
    entered = threading.Event()

    def enter():
        with alone_in(tmp_path):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.5)
    other.kill()
    assert entered.wait(30)
    waiting.join()
    other.communicate()


def test_a_run_that_is_done_needs_neither_model_nor_training(probe, passes, trainings):
    first = probe("repeats=2", **TWO)
    assert trainings == [30, 30, 30, 30]  # two methods, two seeds
    for list_ in (passes, trainings):
        list_.clear()
    assert [outcome.records for outcome in probe("repeats=2", **TWO)] == [outcome.records for outcome in first]
    assert (passes, trainings) == ([], [])


def test_all_repeats_come_from_one_pass_over_the_images(probe, passes, tmp_path):
    probe("repeats=3", **TWO)
    assert passes == [1, *[4] * 7, 2, 1, 4, 3]  # 30 training images, then 7
    names = [path.name.partition("-")[0] for path in (tmp_path / "results" / "features").glob("*/*.npy")]
    assert sorted(names) == ["random_row"] * 6 + ["tokenrank"] * 2  # what draws differs from seed to seed


def test_images_are_checked_once_and_then_read_once_for_all_repeats(probe, monkeypatch):
    read, found = DigitClasses.__getitem__, []
    monkeypatch.setattr(DigitClasses, "__getitem__", lambda self, i: found.append(self.ids[i]) or read(self, i))
    probe("repeats=3", **TWO)
    assert sorted(found) == sorted(2 * [*DigitClasses("train", 30, 0).ids, *DigitClasses("test", 7, 0).ids])


def test_another_run_shares_the_features(probe, passes, trainings):
    probe("repeats=2", **TWO)
    passes.clear()
    probe("repeats=2", "task.epochs=1", other=MethodConfig(name="tokenrank", power=20))
    assert passes == [] and len(trainings) == 6


def test_a_run_interrupted_after_its_training_does_not_train_again(probe, monkeypatch, trainings, tmp_path):
    undisturbed = probe(out="undisturbed", **TWO)
    trainings.clear()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(probing.Probing, "_batch", _after(8, probing.Probing._batch))
        probe("task.epochs=1", **TWO)
    assert trainings  # the first method's was done, or had begun
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(probing.Probing, "running", _after(1, probing.Probing.running))
        probe(**TWO)
    assert trainings[-2:] == [30, 30]
    trainings.clear()
    assert probe(**TWO)[0].records == undisturbed[0].records and trainings == []
    kinds = (".safetensors", ".jsonl")
    found = bytes_below(tmp_path / "results" / "runs" / undisturbed[0].folder.name, *kinds)
    assert found == bytes_below(undisturbed[0].folder, *kinds)


def _after(calls: int, function):
    left = [calls]

    def interrupted(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return function(*given)

    return interrupted


@pytest.mark.slow  # starts a process three times
def test_killed_by_the_system_features_end_in_the_same_bytes(vision, tiny_vit, strategies, tmp_path):
    FeatureSet(DigitClasses("train", 400, 0), tmp_path / "undisturbed", "x", {}, 4, False).features(
        strategies, lambda: vision
    )
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\nfrom pathlib import Path\n"
        "from attention_chains import models\nfrom attention_chains.config import MethodConfig\n"
        "from attention_chains.data.digit_classes import DigitClasses\n"
        "from attention_chains.tasks.extraction import FeatureSet\n"
        "from attention_chains.tasks.probing import strategy\n"
        "load = lambda: models.load('vit', source=sys.argv[1], revision=None, device=torch.device('cpu'),"
        " dtype=torch.float32, image_size=32)\n"
        "specs = MethodConfig(name='tokenrank', power=20), MethodConfig(name='random_row')\n"
        "part = FeatureSet(DigitClasses('train', 400, 0), Path(sys.argv[2]), 'x', {}, 4, False)\n"
        "part.features([strategy(spec, 'maps', 0) for spec in specs], load)\n"
    )
    command = [sys.executable, str(program), str(tiny_vit), str(tmp_path / "killed")]
    marked = 0
    for _ in range(2):
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
        while _rows(tmp_path / "killed") < marked + 80:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        marked = _rows(tmp_path / "killed")
        assert marked < 800
    subprocess.run(command, cwd=ROOT, check=True)
    kinds = (".npy", ".rows", ".json")
    assert bytes_below(tmp_path / "killed", *kinds) == bytes_below(tmp_path / "undisturbed", *kinds)


def _rows(folder: Path) -> int:
    return sum(sum(path.read_bytes()) for path in folder.rglob("*.rows"))


def test_rows_are_on_the_disk_before_they_are_marked(tmp_path, monkeypatch):
    order = []
    features = make_features(tmp_path, "x", {"of": 1}, 3, (1, 1, 4))
    monkeypatch.setattr(np.memmap, "flush", lambda self: order.append((self.dtype.name, features.there.tolist())))
    features.write([0, 2], np.ones((2, 4)))
    assert order == [("float16", []), ("uint8", [0, 2])]
    opened = open_features(tmp_path, "x", {"of": 1})
    assert opened.there.tolist() == [0, 2] and opened.read([2, 0]).tolist() == [[1.0] * 4] * 2
