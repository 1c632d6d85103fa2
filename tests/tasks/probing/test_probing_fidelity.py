"""A run's records are what one gets by training on the cached features by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from attention_chains import tasks
from attention_chains.config import MethodConfig
from attention_chains.data.digit_classes import DigitClasses
from attention_chains.metrics.probing import row, summarise
from attention_chains.tasks.probe import Recipe, epoch_batches, initial_weights

THREE = {
    "rank": MethodConfig(name="tokenrank", power=20),
    "sum": MethodConfig(name="column_sum"),
    "row": MethodConfig(name="random_row"),
}
HEADS = {heads: MethodConfig(name="tokenrank", heads=heads) for heads in ("uniform", "random", "lambda2")}
RATES = (0.01, 0.1, 1.0)


def cached(folder, method: str, images: int) -> list[np.ndarray]:
    """Features of a method with so many images, of every seed, oldest first."""
    found = []
    for path in sorted((folder / "features").glob(f"*/{method}-*.npy"), key=lambda path: path.stat().st_mtime_ns):
        content = json.loads(path.with_suffix(".json").read_text())
        if content["images"] == images:
            found.append(np.load(path).reshape(images, *content["shape"]))
    return found


def trained(features: torch.Tensor, labels: torch.Tensor, rate: int, group: int, groups: int, seed: int):
    """One classifier of a run, by autograd: features (n, width)."""
    recipe = Recipe(RATES, 2, 8, seed)
    start = initial_weights((groups, features.shape[1]), 30, seed)[group, 10 * rate : 10 * rate + 10]
    weight, bias = start.clone().requires_grad_(), torch.zeros(10, requires_grad=True)
    optimiser = torch.optim.SGD([weight, bias], lr=RATES[rate] * 8 / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 2 * 4)
    for epoch in range(2):
        for rows in epoch_batches(len(labels), recipe, epoch):
            optimiser.zero_grad()
            cross_entropy(features[rows] @ weight.T + bias, labels[rows]).backward()
            optimiser.step()
            schedule.step()
    return weight.detach(), bias.detach()


def scaled(maps: np.ndarray, scaling: str) -> torch.Tensor:
    """(n, layers, maps, patches), each map by its maximum if so asked."""
    maps = torch.from_numpy(maps).float()
    return maps / maps.amax(-1, keepdim=True) if scaling == "max" else maps


@pytest.mark.parametrize("scaling", ["raw", "max"])
@pytest.mark.parametrize("seed", [0, 3])
def test_all_maps_feed_one_classifier_of_each_rate(probe, tmp_path, scaling, seed):
    (outcome,) = probe(f"task.scaling={scaling}", f"seed={seed}", **THREE)
    labels = torch.tensor(DigitClasses("train", 30, 0).labels), torch.tensor(DigitClasses("test", 7, 0).labels)
    for label, method in {"rank": "tokenrank", "sum": "column_sum", "row": "random_row"}.items():
        (train,), (test,) = (cached(tmp_path / "results", method, images) for images in (30, 7))
        train, test = scaled(train, scaling).flatten(1), scaled(test, scaling).flatten(1)
        stored = load_file(outcome.folder / "classifiers" / f"{label}.safetensors")
        for rate in range(3):
            weight, bias = trained(train, labels[0], rate, 0, 1, seed)
            torch.testing.assert_close(stored["weight"][0, 10 * rate : 10 * rate + 10], weight, atol=1e-5, rtol=1e-5)
            correct = ((test @ weight.T + bias).argmax(-1) == labels[1]).int().tolist()
            assert [record["stats"][label]["correct"][rate] for record in outcome.records] == correct


def test_by_layer_every_layer_has_classifiers_of_its_own(probe, tmp_path):
    (outcome,) = probe("task.probe=layers", **HEADS)
    labels = torch.tensor(DigitClasses("train", 30, 0).labels), torch.tensor(DigitClasses("test", 7, 0).labels)
    tables = {}
    for train, test in zip(*(cached(tmp_path / "results", "tokenrank", images) for images in (30, 7)), strict=True):
        train, test = (torch.from_numpy(maps).float().squeeze(2) for maps in (train, test))  # (n, 3, 16)
        correct = np.empty((7, 3, 3), int)
        for layer, rate in np.ndindex(3, 3):
            weight, bias = trained(train[:, layer], labels[0], rate, layer, 3, 0)
            correct[:, layer, rate] = ((test[:, layer] @ weight.T + bias).argmax(-1) == labels[1]).int()
        tables[json.dumps(correct.tolist())] = True
    for label in ("uniform", "random", "lambda2"):
        found = [record["stats"][label] for record in outcome.records]
        assert all(stats["rates"] == 3 for stats in found)
        assert json.dumps([stats["correct"] for stats in found]) in tables


def test_records_are_in_the_order_of_the_evaluation_set_and_add_up(probe, probing):
    (outcome,) = probe(**THREE)
    assert [record["id"] for record in outcome.records] == DigitClasses("test", 7, 0).ids
    rows = np.array([row(record["stats"]["row"]) for record in outcome.records])
    best = 100 * max(
        np.mean([record["stats"]["row"]["correct"][rate] for record in outcome.records]) for rate in range(3)
    )
    assert summarise(rows.sum(0), 7)["Acc"] == pytest.approx(best)
    assert tasks.build(probing(**THREE)).running(outcome.records) == {"Acc": pytest.approx(best)}


def test_methods_of_one_run_begin_alike_and_see_the_images_in_the_same_order(probe):
    (outcome,) = probe(one=MethodConfig(name="column_sum"), other=MethodConfig(name="column_sum"))
    one, other = (outcome.folder / "classifiers" / f"{label}.safetensors" for label in ("one", "other"))
    assert all(torch.equal(load_file(one)[part], load_file(other)[part]) for part in ("weight", "bias"))
    assert all(record["stats"]["one"] == record["stats"]["other"] for record in outcome.records)
