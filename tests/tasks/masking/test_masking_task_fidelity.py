"""A masking record holds the right answers of every method at every fraction, resumed and whole alike."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from masked_models import CLASSES, timm_vision

from attention_chains import methods, models, tasks
from attention_chains.config import ConfigError
from attention_chains.methods import MethodError
from attention_chains.metrics.masking import row, summarise
from attention_chains.models import AssetError
from attention_chains.tasks.masked_pass import Batch, Strategy, masked_logits
from attention_chains.tasks.masking import Masking

METHODS = {
    "tokenrank": {"name": "tokenrank", "power": 20},
    "converged": {"name": "tokenrank"},
    "all-blocks": {"name": "tokenrank", "power": 20, "blocks": 4},
    "shared": {"name": "cls", "budget": "random"},
    "random": {"name": "random"},
}


@pytest.fixture
def vision(monkeypatch):
    """The model of every run: a small one whose answer hangs on every token, so that each mask may change it."""
    loaded = timm_vision(registers=2)
    loaded.classify = lambda pixels: (300 * loaded.network(pixels)).sin()
    monkeypatch.setattr(models, "load", lambda family, **settings: loaded)
    monkeypatch.setattr(models, "weights_digest", lambda model: "0" * 64)
    monkeypatch.setattr(models, "missing", lambda model, device: [])
    return loaded


@pytest.fixture
def config(configured, tmp_path):
    """A run of some methods on six scenes, changed by overrides."""

    def make(*overrides, several=None, out="results"):
        run = configured("task=masking", "data.n=6", "logger=none", "device=cpu", *overrides)
        kind = type(run.method)
        changed = {"methods": {label: kind(**keys) for label, keys in several.items()}} if several else {}
        return dataclasses.replace(run, out=str(tmp_path / out), **changed)

    return make


def run(config):
    return tasks.run(Masking(config), config)[0]


def test_records_hold_what_the_masked_model_answers(vision, config):
    chosen = config(several=METHODS)
    outcome = run(chosen)
    samples = list(Masking(chosen).dataset())
    assert outcome.complete and [record["id"] for record in outcome.records] == [sample.id for sample in samples]
    batch = Batch(vision.pixels([sample.image for sample in samples]), [sample.id for sample in samples])
    labels = torch.tensor([sample.label for sample in samples])
    fractions = [index / 20 for index in range(21)]
    for label, keys in METHODS.items():
        own = {key: value for key, value in keys.items() if key not in ("name", "blocks", "budget")}
        ranking = methods.bind(keys["name"], own, kind="ranking")
        strategy = Strategy(ranking, vision.blocks[: keys.get("blocks", 2)], keys.get("budget"))
        right = (masked_logits(vision, batch, strategy, fractions).argmax(-1) == labels).int()  # (F, B)
        expected = [{"correct": each.tolist()} for each in right.T]
        assert [record["stats"][label] for record in outcome.records] == expected


def test_answers_differ_between_images_and_fractions(vision, config):
    """What the other tests compare is not all one answer."""
    several = {"random": {"name": "random"}}
    rows = {tuple(row(record["stats"]["random"])) for record in run(config("data.n=20", several=several)).records}
    assert len(rows) > 5 and any(0 < sum(each) < 21 for each in rows)


def test_the_first_answer_is_the_plain_models_and_takes_one_pass_for_all_methods(vision, config, monkeypatch):
    sizes, classify = [], vision.classify
    monkeypatch.setattr(vision, "classify", lambda x: (sizes.append(len(x)), classify(x))[1])
    chosen = config("data.n=1", several=METHODS)
    records = run(chosen).records
    sample = Masking(chosen).dataset()[0]
    right = int(classify(vision.pixels([sample.image])).argmax() == sample.label)
    assert [stats["correct"][0] for stats in records[0]["stats"].values()] == [right] * len(METHODS)
    assert sizes == [1] + [20] * len(METHODS)


def test_the_number_of_fractions_is_the_configurations(vision, config):
    (record, *_) = run(config("task.fractions=5")).records
    assert [len(stats["correct"]) for stats in record["stats"].values()] == [5]


def test_batches_and_shards_give_the_same_records(vision, config):
    whole = run(config(several=METHODS)).records
    assert run(config("batch_size=4", several=METHODS, out="batches")).records == whole
    for index in (1, 0):
        part = run(config("shard.count=2", f"shard.index={index}", several=METHODS, out="shards"))
    assert part.records == whole


def test_a_method_is_measured_alike_alone_and_beside_others(vision, config):
    together = run(config(several=METHODS, out="together")).records
    alone = run(config(several={"random": {"name": "random"}}, out="alone")).records
    assert [record["stats"]["random"] for record in alone] == [record["stats"]["random"] for record in together]


def test_other_seeds_are_other_random_orders(vision, config):
    several = {label: METHODS[label] for label in ("tokenrank", "shared", "random")}
    first, second = (run(config("data.n=20", f"seed={seed}", several=several)).records for seed in (0, 1))
    for label in several:
        same = [one["stats"][label] for one in first] == [other["stats"][label] for other in second]
        assert same == (label == "tokenrank")


def test_running_metrics_are_those_of_the_last_method(vision, config):
    chosen = config(several=METHODS)
    records = run(chosen).records
    sums = sum(torch.tensor(row(record["stats"]["random"])) for record in records).numpy()
    expected = {name: float(value) for name, value in summarise(sums, 6).items()}
    assert Masking(chosen).running(records) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("blocks", [-1, 5])
def test_a_number_of_blocks_that_the_model_has_not_is_refused(vision, config, blocks):
    with pytest.raises(ConfigError, match=f"of method 'a' is {blocks}, but vit has 4 blocks: choose from 0 to 4"):
        run(config(several={"a": {"name": "cls", "blocks": blocks}}))


def test_a_budget_that_does_not_exist_is_refused(vision, config):
    with pytest.raises(ConfigError, match="budget of method 'a' is 'lambda': choose uniform, random, lambda2 or null"):
        Masking(config(several={"a": {"name": "cls", "budget": "lambda"}}))


@pytest.mark.parametrize("count", [None, 1])
def test_one_fraction_is_too_few(vision, config, count):
    chosen = config()
    chosen.task.fractions = count
    with pytest.raises(ConfigError, match=f"task.fractions is {count}: masking needs two or more"):
        Masking(chosen)


def test_a_method_that_gives_no_ranking_is_refused_before_anything_is_loaded(config):
    with pytest.raises(MethodError, match="'outgoing' gives no ranking"):
        Masking(config(several={"a": {"name": "outgoing"}}))


def test_a_model_without_a_classifier_is_refused(vision, config):
    vision.classify = None
    with pytest.raises(ConfigError, match="vit was loaded without a classifier, which masking needs"):
        run(config())


def test_data_of_other_classes_than_the_classifier_is_refused(vision, config):
    task = Masking(config())
    sample = task.dataset()[0]
    task.check(sample)
    vision.classes = CLASSES - 1
    with pytest.raises(ConfigError, match=f"has 10 classes, but the classifier of vit has {CLASSES - 1}: choose data"):
        task.check(sample)


def test_scores_that_are_no_numbers_stop_the_run(vision, config, monkeypatch):
    task = Masking(config())
    nothing = torch.full((1, CLASSES), torch.nan)
    monkeypatch.setattr(task, "_logits", lambda batch: {"a": nothing[None]})
    with pytest.raises(AssetError, match="vit gives NaN or infinite class scores in float32"):
        task.measure([task.dataset()[0]], seed=0)
