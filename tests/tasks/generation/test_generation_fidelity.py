"""A generation run keeps, for every sample and method, the image that was sampled and the features of that image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from attention_chains import methods, tasks
from attention_chains.data.reference import open_reference
from attention_chains.models.extractors import load_extractor
from attention_chains.records.vectors import unpack
from attention_chains.tasks.generation import Generation
from attention_chains.tasks.sampling import Guidance, sample
from attention_chains.tasks.seeds import noise_seed

METHODS = ("none", "sag_column_sum", "sag_tokenrank")
CPU = torch.device("cpu")


def picture(outcome, label, name):
    return np.asarray(Image.open(outcome.folder / "images" / label / f"{name}.png"))


def test_pictures_and_records_are_what_the_sampler_and_the_extractor_give(generate, tiny):
    outcome = generate("batch_size=1", "data.n=2", "data.prompt=a red three", several=METHODS)
    assert outcome.complete and [record["id"] for record in outcome.records] == ["00000", "00001"]
    extractor = load_extractor("mini-vit", CPU)
    for record in outcome.records:
        latents = tiny.noise([noise_seed(0, record["id"])])
        for label, stats in record["stats"].items():
            saliency = methods.bind(label, {}, kind="saliency")
            chosen = Guidance("up_blocks.2.attentions.2", 0.75, 1.0, 1.0, 0.4)
            done = sample(tiny, latents, ["a red three"], chosen, saliency, steps=2)
            image = picture(outcome, label, record["id"])
            assert np.array_equal(image, tiny.decode(done.latents)[0])
            features, logits = extractor.features(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
            assert np.array_equal(unpack(stats["features"]), features[0].numpy())
            assert np.array_equal(unpack(stats["logits"]), logits[0].numpy())
            assert stats["masked"] == done.masked.item() and (stats["masked"] > 0) == (label != "none")


def test_all_methods_start_from_the_same_latents_and_end_in_other_images(generate):
    unguided = generate("task.sag_scale=0", "data.n=2", several=METHODS, out="unguided")
    for record in unguided.records:
        assert len({stats["features"] for stats in record["stats"].values()}) == 1
    guided = generate("data.n=2", several=METHODS, out="guided")
    for record in guided.records:
        assert len({stats["features"] for stats in record["stats"].values()}) == len(METHODS)
        assert record["stats"]["none"] == next(r for r in unguided.records if r["id"] == record["id"])["stats"]["none"]


def test_samples_differ_from_each_other_and_from_those_of_another_seed(generate):
    records = [*generate("data.n=2").records, *generate("data.n=2", "seed=1").records]
    assert len({record["stats"]["sag_tokenrank"]["features"] for record in records}) == 4


def test_the_prompt_of_a_sample_is_its_line_and_decides_the_image(generate, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red three\na blue seven\n")
    one = generate("data.n=3", f"data.path={path}", several=("none",), out="file")
    blue = generate("data.n=3", "data.prompt=a blue seven", several=("none",), out="single")
    same = [a["stats"] == b["stats"] for a, b in zip(one.records, blue.records, strict=True)]
    assert same == [False, True, False]


def test_the_features_of_the_reference_set_lie_beside_the_records_sorted_by_id(generate, generated):
    outcome = generate()
    kept = load_file(outcome.folder / "reference.safetensors")
    reference = open_reference(generated().data)
    order = sorted(range(len(reference)), key=lambda index: reference.ids[index])
    pixels = torch.from_numpy(np.stack([reference[index].image for index in order])).permute(0, 3, 1, 2)
    features, logits = load_extractor("mini-vit", CPU).features(pixels)
    assert torch.equal(kept["features"], features) and torch.equal(kept["logits"], logits)


def test_a_second_process_finds_the_reference_features_there(generate, monkeypatch):
    generate("shard.count=2", "shard.index=0")
    monkeypatch.setattr("attention_chains.tasks.reference_features._batches", lambda _: pytest.fail("computed again"))
    assert generate("shard.count=2", "shard.index=1").complete


def test_features_of_other_reference_images_are_not_taken(generate, generated):
    config = generated()
    outcome = generate()
    path = outcome.folder / "reference.safetensors"
    right = path.read_bytes()
    task = tasks.build(generated("data.reference_n=3"))
    task.prepare(outcome.folder)
    assert path.read_bytes() != right
    tasks.build(config).prepare(outcome.folder)
    assert path.read_bytes() == right


@pytest.mark.parametrize("name", ["weights", "fingerprint"])
def test_the_run_is_another_with_another_extractor_or_reference_set(generated, monkeypatch, name):
    task = Generation(generated())
    before = task.weights() if name == "weights" else task.dataset().fingerprint
    if name == "weights":
        monkeypatch.setattr("attention_chains.tasks.generation.extractor_digest", lambda _: "another")
        assert Generation(generated()).weights() != before
    else:
        assert Generation(generated("data.reference_n=5")).dataset().fingerprint != before


def test_the_running_number_is_the_share_of_blurred_tokens_of_the_last_method(generate, generated):
    records = generate("data.n=2", several=METHODS).records
    shares = [record["stats"]["sag_tokenrank"]["masked"] for record in records]
    running = Generation(generated(several=METHODS)).running(records)
    assert running == {"masked": pytest.approx(sum(shares) / len(shares))} and 0 < running["masked"] <= 0.4
