"""Imagenette, from files written here in its layout: torchvision's images and labels, a sentence for what is wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from attention_chains.data.errors import DataError
from attention_chains.data.imagenette import SYNSETS, URL, Imagenette

IMAGES = {"train": 5, "val": 3}  # of each class


@pytest.fixture(scope="module")
def published(tmp_path_factory, jpeg) -> Path:
    """The folder imagenette2 with its table of noisy labels, five training and three validation images a class."""
    root = tmp_path_factory.mktemp("imagenette") / "imagenette2"
    for split, count in IMAGES.items():
        for label, wnid in reversed(list(enumerate(SYNSETS))):
            (root / split / wnid).mkdir(parents=True)
            for number in range(count):
                official = split == "val" and number == 0
                name = f"ILSVRC2012_val_{label:08d}" if official else f"{wnid}_{number * 7919}"
                content = jpeg(1000 * label + 10 * number + len(split), "L" if number == 1 else "RGB")
                (root / split / wnid / f"{name}.JPEG").write_bytes(content)
    (root / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")
    return root


@pytest.fixture
def copy(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "imagenette2"))


def refusal(action) -> str:
    with pytest.raises(DataError) as refused:
        action()
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


# What is read


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_and_labels_are_torchvisions(published, split):
    reference, data = datasets.Imagenette(published.parent, split), Imagenette(published, split)
    assert len(data) == len(reference) == 10 * IMAGES[split]
    assert data.classes == [names[0] for names in reference.classes] and tuple(reference.wnids) == SYNSETS
    assert data.labels == [label for _, label in reference]
    for sample, (image, label) in zip(data, reference, strict=True):
        assert np.array_equal(sample.image, np.asarray(image)) and sample.label == label
        assert sample.class_name == reference.classes[label][0]


def test_ids_name_split_synset_and_file(published):
    data = Imagenette(published)
    assert data.ids[:3] == [
        "val/n01440764/ILSVRC2012_val_00000000",
        "val/n01440764/n01440764_15838",
        "val/n01440764/n01440764_7919",
    ]
    train = Imagenette(published, "train")
    assert set(train.ids).isdisjoint(data.ids) and [sample.id for sample in train] == train.ids
    assert len(set(train.ids)) == len(train)


def test_the_folder_that_holds_it_may_be_named_and_so_may_a_relative_one(published, monkeypatch):
    expected = Imagenette(published).fingerprint
    assert Imagenette(published.parent).fingerprint == expected
    monkeypatch.chdir(published.parent)
    assert Imagenette("imagenette2").fingerprint == expected


def test_some_are_drawn_by_the_seed_and_all_come_in_order(published):
    everything = Imagenette(published, "train").ids
    drawn = np.random.RandomState(3).permutation(50)[:20]
    data = Imagenette(published, "train", n=20, seed=3)
    assert data.ids == [everything[number] for number in drawn]
    assert data.labels == [int(number) // IMAGES["train"] for number in drawn]
    assert everything == sorted(everything) and Imagenette(published, "train", seed=None).ids == everything


def test_the_order_in_which_a_machine_lists_its_files_does_not_matter(published, monkeypatch):
    expected = Imagenette(published, "train", 20)
    scan = os.scandir

    class Backwards(contextlib.AbstractContextManager):
        def __init__(self, path="."):
            with scan(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name)

        def __iter__(self):
            return self

        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop()

        def __exit__(self, *_):
            self.entries.clear()

    monkeypatch.setattr(os, "scandir", Backwards)
    assert next(os.walk(published / "train"))[1] == list(reversed(SYNSETS))
    found = Imagenette(published, "train", 20)
    assert (found.ids, found.labels, found.fingerprint) == (expected.ids, expected.labels, expected.fingerprint)


def test_ids_and_labels_need_no_image(copy):
    expected = Imagenette(copy)
    for file in copy.glob("*/*/*"):
        file.write_bytes(b"")
    empty = Imagenette(copy)
    assert (empty.ids, empty.labels) == (expected.ids, expected.labels)


def test_the_fingerprint_changes_with_a_byte_the_split_and_the_draw(copy):
    prints = {Imagenette(copy).fingerprint, Imagenette(copy, "train").fingerprint, Imagenette(copy, n=9).fingerprint}
    file = copy / "val" / SYNSETS[2] / f"{SYNSETS[2]}_7919.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    prints.add(Imagenette(copy).fingerprint)
    assert len(prints) == 4 and all(re.fullmatch("[0-9a-f]{64}", each) for each in prints)
    assert Imagenette(copy).fingerprint in prints


def test_another_number_of_images_is_only_noted(published, caplog):
    with caplog.at_level(logging.WARNING):
        Imagenette(published)
    assert "(val) holds 30 images; the published 3925" in caplog.text


# Bad input


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_missing_is_told_with_where_to_get_it_and_nothing_is_downloaded(tmp_path, split):
    sentence = refusal(lambda: Imagenette(tmp_path / "imagenette2", split))
    assert f"Imagenette is not at {tmp_path / 'imagenette2'}: " in sentence
    assert URL in sentence and "data.path" in sentence
    assert list(tmp_path.iterdir()) == []


def test_the_address_is_the_one_of_torchvisions_reader():
    assert datasets.Imagenette._ARCHIVES["full"][0] == URL


@pytest.mark.parametrize("split", ["test", "validation", None])
def test_an_unknown_split_is_told_those_that_there_are(published, split):
    assert refusal(lambda: Imagenette(published, split)) == f"data.split is '{split}': choose one of train, val."


def test_missing_classes_are_refused_before_the_others_are_numbered_anew(copy):
    for wnid in SYNSETS[3:5]:
        shutil.rmtree(copy / "val" / wnid)
    assert f"lacks the synset folders {SYNSETS[3]}, {SYNSETS[4]}: unpack {URL}" in refusal(lambda: Imagenette(copy))


def test_unknown_synsets_are_all_named(copy):
    for name in ("n99999999", "cats"):
        (copy / "train" / name).mkdir()
    sentence = refusal(lambda: Imagenette(copy, "train"))
    assert "folders of no synset of Imagenette, cats, n99999999" in sentence and str(copy / "train") in sentence
    assert len(Imagenette(copy)) == 30


def test_a_class_without_images_is_refused(copy):
    for file in (copy / "val" / SYNSETS[9]).iterdir():
        file.unlink()
    sentence = refusal(lambda: Imagenette(copy))
    assert f"A synset folder in {copy / 'val'} holds no image" in sentence and URL in sentence


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_an_unreadable_image_is_named_and_the_others_are_read(copy, content):
    file = copy / "val" / SYNSETS[0] / f"{SYNSETS[0]}_15838.JPEG"
    file.write_bytes(file.read_bytes()[:-80] if content is None else content)
    data = Imagenette(copy)
    sentence = refusal(lambda: data[1])
    assert str(file) in sentence and f"sample 'val/{SYNSETS[0]}/{SYNSETS[0]}_15838' cannot be read" in sentence
    assert "data.skip_bad" in sentence and data[0].label == data[2].label == 0


@pytest.mark.parametrize("seed", [None, -1])
def test_a_draw_without_a_seed_is_refused(published, seed):
    assert f"data.seed is {seed}" in refusal(lambda: Imagenette(published, n=4, seed=seed))
