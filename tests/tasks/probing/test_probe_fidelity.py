"""All learning rates at once are what each would be alone, trained by torch's own parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.tasks import probe
from attention_chains.tasks.probe import Classifiers, Recipe, epoch_batches, initial_weights, train

PAPER = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
CPU = torch.device("cpu")


def problem(n: int, groups: int, width: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (groups, n, width) with structure that depends on the label, and labels (n,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    features = torch.randn(groups, n, width, generator=generator)
    return features + torch.randn(groups, classes, width, generator=generator)[:, labels], labels


def alone(
    features: torch.Tensor, labels: torch.Tensor, classes: int, recipe: Recipe, group: int, rate: int
) -> torch.nn.Linear:
    """One classifier, trained by torch.optim on its own."""
    layer = torch.nn.Linear(features.shape[-1], classes)
    start = initial_weights((len(features), features.shape[-1]), len(recipe.learning_rates) * classes, recipe.seed)
    layer.weight.data = start[group].unflatten(0, (-1, classes))[rate].clone()
    torch.nn.init.zeros_(layer.bias)
    scaled = recipe.learning_rates[rate] * recipe.batch / 256
    optimiser = torch.optim.SGD(layer.parameters(), lr=scaled, momentum=0.9, weight_decay=0)
    steps = recipe.epochs * -(-len(labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps, eta_min=0)
    for epoch in range(recipe.epochs):
        for rows in epoch_batches(len(labels), recipe, epoch):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(features[group, rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    return layer


def together(
    features: torch.Tensor, labels: torch.Tensor, classes: int, recipe: Recipe, **checkpoint: object
) -> Classifiers:
    width = (len(features), features.shape[-1])
    return train(lambda rows: features[:, rows], labels, width, classes, recipe, **checkpoint)


def assert_each_is_what_it_is_alone(features, labels, classes, recipe):
    found = together(features, labels, classes, recipe)
    for group in range(len(features)):
        weights, biases = (part[group].unflatten(-1, (-1, classes)) for part in (found.weight.mT, found.bias[:, 0]))
        for rate in range(len(recipe.learning_rates)):
            expected = alone(features, labels, classes, recipe, group, rate)
            torch.testing.assert_close(weights[:, rate].mT, expected.weight.data, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(biases[rate], expected.bias.data, atol=1e-5, rtol=1e-5)


def test_the_papers_seven_rates_are_seven_separate_trainings():
    features, labels = problem(300, 1, 48, 10)
    assert_each_is_what_it_is_alone(features, labels, 10, Recipe(PAPER, 20, 128, 0))


def test_large_rates_too_where_the_classifiers_move_far():
    features, labels = problem(90, 1, 12, 4)
    assert_each_is_what_it_is_alone(features, labels, 4, Recipe((0.05, 0.5), 8, 32, 3))


@settings(max_examples=10)
@given(st.integers(2, 40), st.tuples(st.integers(1, 3), st.integers(1, 6)), st.integers(1, 40), st.integers(0, 9))
def test_every_layer_has_classifiers_of_its_own(n, shape, batch, seed):
    (groups, width), classes = shape, 3
    features, labels = problem(n, groups, width, classes, seed)
    assert_each_is_what_it_is_alone(features, labels, classes, Recipe((1e-3, 0.1), 3, batch, seed))


def test_it_learns_what_can_be_learnt():
    features, labels = problem(400, 2, 30, 5)
    found = together(features, labels, 5, Recipe((1e-4, 0.1), 20, 64, 0))
    correct = found.correct(features, labels).float().mean(0)  # (groups, rates)
    assert (correct[:, 1] > 0.99).all() and (correct[:, 0] < correct[:, 1]).all()


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**31))
def test_an_epoch_takes_every_image_once_and_epochs_and_seeds_differ(n, batch, seed):
    recipe = Recipe(PAPER, 2, batch, seed)
    taken = list(epoch_batches(n, recipe, 0))
    assert sorted(np.concatenate(taken)) == list(range(n))
    assert [len(rows) for rows in taken[:-1]] == [batch] * (len(taken) - 1)
    if n > 20:
        orders = [(recipe, 0), (recipe, 1), (Recipe(PAPER, 2, batch, seed + 1), 0)]
        assert len({tuple(np.concatenate(list(epoch_batches(n, *order)))) for order in orders}) == 3


def test_initial_weights_are_normal_and_of_their_seed():
    weights = initial_weights((2, 500), 70, 5)
    assert weights.shape == (2, 70, 500)
    assert weights.std().item() == pytest.approx(0.01, rel=0.02) and abs(weights.mean().item()) < 2e-4
    assert torch.equal(weights, initial_weights((2, 500), 70, 5))
    assert not torch.equal(weights, initial_weights((2, 500), 70, 6))


def test_the_same_training_gives_the_same_bits():
    features, labels = problem(100, 2, 20, 5)
    first, second = (together(features, labels, 5, Recipe(PAPER, 4, 32, 1)) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("epochs_done", [1, 2, 4])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch, epochs_done):
    monkeypatch.setattr(probe, "CHECKPOINT_SECONDS", -1.0)  # after every epoch
    features, labels = problem(100, 2, 20, 5)
    recipe, steps, read = Recipe(PAPER, 5, 32, 1), [], features.__getitem__
    undisturbed = together(features, labels, 5, recipe)
    kept = {"checkpoint": tmp_path / "x.safetensors", "identity": "this"}

    def killed(rows):
        if len(steps) == epochs_done * 4 + 2:
            raise KeyboardInterrupt
        steps.append(rows)
        return read((slice(None), rows))

    with pytest.raises(KeyboardInterrupt):
        train(killed, labels, (2, 20), 5, recipe, **kept)
    again = []
    resumed = train(lambda rows: (again.append(rows), features[:, rows])[1], labels, (2, 20), 5, recipe, **kept)
    assert len(again) == (5 - epochs_done) * 4
    assert torch.equal(resumed.weight, undisturbed.weight) and torch.equal(resumed.bias, undisturbed.bias)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_training_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "CHECKPOINT_SECONDS", -1.0)
    features, labels = problem(40, 1, 8, 3)
    path, recipe = tmp_path / "x.safetensors", Recipe((0.1,), 3, 16, 0)
    probe.save_tensors(path, {"weight": torch.ones(1)}, {"identity": "other", "epochs": "2"})
    found = together(features, labels, 3, recipe, checkpoint=path, identity="this")
    assert torch.equal(found.weight, together(features, labels, 3, recipe).weight)


@given(st.integers(1, 20))
def test_which_images_are_right_does_not_depend_on_the_batch(size):
    features, labels = problem(40, 2, 16, 4)
    found = Classifiers(initial_weights((2, 16), 12, 0), torch.zeros(2, 1, 12), 3)
    pieces = [found.correct(features[:, i : i + size], labels[i : i + size]) for i in range(0, 40, size)]
    assert torch.equal(torch.cat(pieces), found.correct(features, labels))
    for group, rate in [(0, 0), (0, 2), (1, 1)]:
        logits = features[group] @ found.weight[group, 4 * rate : 4 * rate + 4].T
        assert (logits.argmax(-1) == labels).equal(found.correct(features, labels)[:, group, rate])
