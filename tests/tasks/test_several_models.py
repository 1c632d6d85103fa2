"""Several runs of one experiment: everything missing is told first, each resumes, and a table is filled from all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attention_chains import tasks
from attention_chains.config import RunConfig
from attention_chains.models import AssetError
from attention_chains.report.present import present


class MadeUpMasking:
    """Answers as a masking task would, without a model."""

    def __init__(self, config: RunConfig, measured: list[str], missing: Mapping[str, list[str]]) -> None:
        self.config, self._measured, self._missing = config, measured, missing

    def missing(self) -> list[str]:
        return self._missing.get(self.config.model.name, [])

    def dataset(self) -> Any:
        return MadeUpData(self.config.data.n)

    def weights(self) -> str:
        return self.config.model.name

    def check(self, sample: Any) -> None:
        """Take every sample."""

    def measure(self, samples: Sequence[Any], seed: int) -> list[dict]:
        self._measured += [f"{self.config.model.name}/{sample.id}" for sample in samples]
        lasting = len(self.config.model.name)
        stats = {label: {"correct": [1] * lasting + [0] * (21 - lasting)} for label in self.config.methods}
        return [{"stats": stats} for _ in samples]

    def prepare(self, folder: Path) -> None: ...

    def prepared(self, folder: Path) -> bool:
        return True

    def running(self, records: Sequence[Any]) -> dict[str, float]:
        return {"AUC": 0.5}


class MadeUpData:
    """Images that are only names."""

    fingerprint = "made up"

    def __init__(self, n: int) -> None:
        self.ids = [f"s{i}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(id=self.ids[index])


@pytest.fixture
def measured() -> list[str]:
    """What was measured, in order."""
    return []


@pytest.fixture
def missing() -> dict[str, list[str]]:
    """What is missing, by model; filled by a test."""
    return {}


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch, measured: list[str], missing: dict) -> None:
    monkeypatch.setattr(tasks, "build", lambda config: MadeUpMasking(config, measured, missing))


@pytest.fixture
def config(configured, tmp_path: Path):
    """A model's name in, its run of Table 4 out."""

    def of(name: str, **changes: Any) -> RunConfig:
        run = configured("experiment=table4", f"model={name}", "data.n=4", "logger=none", "device=cpu")
        return replace(run, out=str(tmp_path / "results"), **changes)

    return of


def test_all_that_is_missing_for_any_model_is_told_before_anything_is_run(config, measured, missing):
    missing.update(vit=["No weights of vit.", "No data."], clip=["No weights of clip.", "No data."])
    with pytest.raises(AssetError) as caught:
        tasks.run_all([config("dinov1"), config("vit"), config("clip")])
    assert str(caught.value).splitlines() == ["No weights of vit.", "No data.", "No weights of clip."]
    assert measured == []


def test_every_model_is_run_once_and_nothing_again(config, measured):
    runs = [config("vit"), config("clip", repeats=2)]
    first = tasks.run_all(runs)
    assert measured == [f"{name}/s{i}" for name in ("vit", "clip", "clip") for i in range(4)]
    assert [len(each.outcomes) for each in first] == [1, 2] and all(each.complete for each in first)
    assert tasks.run_all(runs) == first and len(measured) == 12


def test_what_another_job_recorded_is_found_once_it_is_whole(config, measured, missing):
    assert tasks.recorded(config("vit")) is None
    half = config("vit")
    half.shard.index, half.shard.count = 0, 2
    tasks.run_all([half])
    assert tasks.recorded(config("vit")) is None
    (whole,) = tasks.run_all([config("vit")])
    computed = len(measured)
    assert tasks.recorded(config("vit")) == whole and len(measured) == computed
    missing["vit"] = ["No weights of vit."]
    assert tasks.recorded(config("vit")) is None


def test_the_table_of_one_model_has_the_recorded_ones_beside_it(config, tmp_path, capsys):
    experiments = Path(__file__).resolve().parents[2] / "experiments"
    for name in ("vit", "clip", "dinov1"):
        tasks.run_all([config(name)])
    now = tasks.run_all([config("dinov2")])
    recorded = [tasks.recorded(config(name)) for name in ("vit", "clip", "dinov1")]
    numbers = present(now, recorded, config("dinov2"), experiments)
    assert set(numbers) == {"ViT", "CLIP", "DINOv1", "DINOv2"} and numbers["ViT"] < numbers["DINOv1"]
    text = (tmp_path / "results/table4/mini/table.md").read_text()
    assert "Measured: vit, clip, dinov1, dinov2 on digit_classes, split test; scale `mini`, 4 images" in text
    assert "Table 4" in capsys.readouterr().out


def test_one_unfinished_model_keeps_the_table_back(config, tmp_path, capsys):
    half = config("clip")
    half.shard.index, half.shard.count = 0, 2
    finished = tasks.run_all([config("vit"), half])
    assert present(finished, [], half, Path("experiments")) == {}
    assert "2 of 4 samples so far" in capsys.readouterr().out
    assert not (tmp_path / "results/table4").exists()
