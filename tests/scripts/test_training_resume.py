"""A training that is interrupted goes on where its last checkpoint is and ends in the same bits."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch


@pytest.fixture(params=[False, True], ids=["adamw", "muon"])
def recipe(request):
    from minis.loop import Recipe

    rate = 0.2 if request.param else 5e-2
    return Recipe(steps=45, learning_rate=rate, warmup=5, ema=0.9, log_every=5, save_every=10, muon=request.param)


def trained(regression, recipe, folder, stop=None):
    """Weights after the training, or None where step `stop` was interrupted."""
    from minis.loop import train

    model, loss_at = regression()

    def loss(step):
        if step == stop:
            raise KeyboardInterrupt
        return loss_at(step)

    folder.mkdir(exist_ok=True)
    try:
        return torch.cat([p.detach().flatten() for p in train(model, loss, recipe, folder, "stage").parameters()])
    except KeyboardInterrupt:
        return None


def log(folder):
    return [row[:2] for row in csv.reader((folder / "stage.csv").open())]  # without the seconds


@pytest.mark.parametrize("stops", [[0], [3], [10], [29], [44], [13, 14, 15, 38]], ids=str)
def test_an_interrupted_training_ends_in_the_weights_and_the_log_of_an_undisturbed_one(
    regression, recipe, tmp_path, stops
):
    undisturbed = trained(regression, recipe, tmp_path / "whole")
    for stop in stops:
        assert trained(regression, recipe, tmp_path / "cut", stop) is None
    assert torch.equal(trained(regression, recipe, tmp_path / "cut"), undisturbed)
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_the_log_has_every_interval_once(regression, recipe, tmp_path):
    trained(regression, recipe, tmp_path / "cut", 29)  # logged to step 25, saved at step 20
    trained(regression, recipe, tmp_path / "cut")
    assert log(tmp_path / "cut")[0] == ["step", "loss"]
    assert [int(step) for step, _ in log(tmp_path / "cut")[1:]] == list(range(5, 50, 5))


def test_a_finished_training_is_not_done_again(regression, recipe, tmp_path):
    first = trained(regression, recipe, tmp_path)
    assert torch.equal(trained(regression, recipe, tmp_path, stop=0), first)


def test_a_torn_checkpoint_is_never_left_behind(regression, recipe, tmp_path, monkeypatch):
    assert trained(regression, recipe, tmp_path, 15) is None
    kept = (tmp_path / "stage.pt").read_bytes()

    def torn(state, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        assert trained(regression, recipe, tmp_path) is None
    assert (tmp_path / "stage.pt").read_bytes() == kept
    assert torch.equal(trained(regression, recipe, tmp_path), trained(regression, recipe, tmp_path / "whole"))


def test_training_lowers_the_loss(regression, recipe, tmp_path):
    trained(regression, recipe, tmp_path)
    losses = [float(loss) for _, loss in log(tmp_path)[1:]]
    assert losses[-1] < losses[0] / 2


def test_the_random_numbers_of_a_step_depend_on_seed_and_step_alone():
    from minis.loop import step_generator

    draws = {(seed, step): torch.rand(4, generator=step_generator(seed, step)) for seed in (0, 1) for step in (0, 1, 2)}
    assert torch.equal(draws[0, 1], torch.rand(4, generator=step_generator(0, 1)))
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == len(draws)


def test_a_checkpoint_of_another_recipe_is_refused(regression, recipe, tmp_path):
    trained(regression, recipe, tmp_path, stop=29)
    with pytest.raises(SystemExit, match="trained by another recipe"):
        trained(regression, replace(recipe, learning_rate=1e-3), tmp_path)
