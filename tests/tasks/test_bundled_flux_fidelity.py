"""The bundled FLUX miniature is small, says where it is from, and was truly trained: its chains find the object."""

from __future__ import annotations

import hashlib
import json

import pytest

from attention_chains import tasks
from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.metrics.segmentation import FIELDS, summarise
from attention_chains.models.assets import BUNDLED

FOLDER = BUNDLED / "flux"
FILES = [path for path in FOLDER.rglob("*") if path.is_file()]
METHODS = (
    "+methods={row-select: {name: row_select}, column-select: {name: column_select}, "
    "outgoing-n2: {name: outgoing, n: 2}}"
)


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "training.json").read_text())


@pytest.fixture(scope="module")
def precision(configured, tmp_path_factory) -> dict[str, float]:
    """Foreground average precision of each method on 24 held-out scenes, from the colour word, percent."""
    config = configured(METHODS, "data.n=24", "logger=none", "device=cpu", f"out={tmp_path_factory.mktemp('out')}")
    records = tasks.run(tasks.build(config), config)[0].records
    sums = {
        label: [sum(record["stats"][label][field] for record in records) for field in FIELDS]
        for label in config.methods
    }
    return {label: float(summarise(total, len(records))["fgAP"]) for label, total in sums.items()}


def test_all_of_it_takes_less_than_16_megabytes():
    assert sum(path.stat().st_size for path in FILES) < 16e6


def test_weights_are_safetensors_only():
    assert {path.suffix for path in FILES} <= {".safetensors", ".json", ".csv", ".txt", ".md"}
    assert len([path for path in FILES if path.suffix == ".safetensors"]) == 4


def test_its_card_has_the_hash_of_every_file_of_weights(card):
    files = FOLDER.rglob("*.safetensors")
    assert card["weights"] == {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_its_card_names_the_data_it_was_trained_on_which_this_code_still_makes(card):
    recipe = card["recipe"]
    assert card["data"] == DigitScenes("train", recipe["scenes"], recipe["seed"], objects="mixed").fingerprint


def test_its_log_goes_to_the_last_step_of_every_stage(card):
    stages = {name: each for name, each in card["recipe"].items() if isinstance(each, dict)}
    assert stages
    for name, stage in stages.items():
        rows = [line.split(",") for line in (FOLDER / f"{name}.csv").read_text().splitlines()]
        assert rows[0] == ["step", "loss", "seconds"] and int(rows[-1][0]) == stage["steps"]
        assert float(rows[-1][1]) < float(rows[1][1])


def test_two_outgoing_bounces_find_the_object(precision):
    assert precision["outgoing-n2"] > 75  # the foreground share is about 12


def test_two_outgoing_bounces_are_better_than_the_column_and_the_column_than_the_row(precision):
    assert precision["outgoing-n2"] > precision["column-select"] + 1
    assert precision["column-select"] > precision["row-select"] + 1
