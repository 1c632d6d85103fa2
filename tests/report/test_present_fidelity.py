"""What a finished run shows; half a run shows how far it is, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from attention_chains import tasks
from attention_chains.config import RunConfig, register, resolve
from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.models.errors import AssetError
from attention_chains.report.present import present
from attention_chains.tasks import Finished, Outcome

ROOT = Path(__file__).resolve().parents[2]


class StubTask:
    """Stands for a task whose methods give a map each."""

    def dataset(self) -> DigitScenes:
        return DigitScenes(n=3)

    def check(self, sample) -> None:
        pass

    def maps(self, images, prompts, words, seeds) -> dict[str, torch.Tensor]:
        labels = ("row-select", "column-select", "outgoing-n2")
        return {
            label: torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i)) for i, label in enumerate(labels)
        }


def config(tmp_path: Path, *overrides: str) -> RunConfig:
    register(ROOT / "configs")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return resolve(compose("config", [f"out={tmp_path}", *overrides]))


def shown(chosen: RunConfig, records: list[dict], total: int, experiments: Path) -> dict[str, float]:
    """What `present` gives for one run."""
    finished = Finished(chosen, [Outcome(Path("runs/made-up"), 0, records, 0, total)])
    return present([finished], [], chosen, experiments)


@pytest.fixture(autouse=True)
def stub_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "build", lambda _: StubTask())


def test_an_experiment_writes_table_and_pictures(records, experiments: Path, tmp_path: Path, capsys) -> None:
    chosen = config(tmp_path, "experiment=table7")
    numbers = shown(chosen, records, len(records), experiments)
    folder = tmp_path / "table7" / "mini"
    assert {path.name for path in folder.iterdir()} == {
        "table.md", "table.csv", "differences.csv", "plot.png", "figure.png"
    }  # fmt: skip
    assert set(numbers) == {"Acc", "mIoU", "mAP", "mIoU_ca", "fgAP"}
    printed = capsys.readouterr().out
    assert "flux on digit_scenes, split test, word colour" in printed and "outgoing (n=2)*" in printed
    assert "pooled=real" in (folder / "table.md").read_text()


@pytest.mark.parametrize("error", [AssetError("There is no weight."), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_picture_that_cannot_be_drawn_does_not_cost_the_table(
    error, records, experiments: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self, *arguments) -> None:
        raise error

    monkeypatch.setattr(StubTask, "maps", fail)
    assert shown(config(tmp_path, "experiment=table7"), records, len(records), experiments)
    assert f"The picture beside the table is left out: {error}" in " ".join(capsys.readouterr().out.split())
    assert "figure.png" not in (tmp_path / "table7" / "mini" / "table.md").read_text()


def test_half_a_run_is_said_and_writes_nothing(records, experiments: Path, tmp_path: Path, capsys) -> None:
    chosen = config(tmp_path, "experiment=table7")
    assert shown(chosen, records, 2 * len(records), experiments) == {}
    assert "12 of 24 samples so far" in capsys.readouterr().out
    assert not (tmp_path / "table7").exists()


def test_a_single_method_is_shown_without_a_paper_beside_it(records, experiments: Path, tmp_path: Path, capsys) -> None:
    for record in records:
        record["stats"] = {"outgoing": record["stats"]["outgoing-n2"]}
    numbers = shown(config(tmp_path), records, len(records), experiments)
    assert np.isfinite(list(numbers.values())).all()
    assert "outgoing" in capsys.readouterr().out and not (tmp_path / "table7").exists()


def test_diffseg_stands_in_table1_beside_the_rows_of_flux(records, experiments, tmp_path: Path, capsys) -> None:
    asked, beside = config(tmp_path, "experiment=table1"), config(tmp_path, "experiment=_table1_diffseg")
    others = [{**each, "stats": {"diffseg": each["stats"]["incoming-n2"]}} for each in records]
    finished = [
        Finished(chosen, [Outcome(Path(f"runs/{chosen.model.name}"), 0, held, 0, len(held))])
        for chosen, held in ((asked, records), (beside, others))
    ]
    present(finished, [], asked, experiments)
    text = (tmp_path / "table1/mini/table.md").read_text()
    assert "flux, sd15 on digit_scenes" in text and "timestep=300" in text and "pooled=real" in text
    row = next(line for line in text.splitlines() if line.startswith("| DiffSeg |"))
    assert row.count("(65.41)") == 1 and "| (" not in row  # every column is measured


def test_the_images_of_a_data_set_on_disk_are_listed(records, experiments, tmp_path: Path) -> None:
    chosen = config(tmp_path, "experiment=table1", "data.path=somewhere")
    shown(chosen, records, len(records), experiments)
    listed = (tmp_path / "table1/mini/images.txt").read_text().split()
    assert listed == sorted(record["id"] for record in records)


def test_a_folder_that_cannot_be_written_is_an_error_that_launch_knows(records, experiments, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError) as caught:
        shown(config(blocked, "experiment=table1"), records, len(records), experiments)
    assert caught.value.errno is not None
