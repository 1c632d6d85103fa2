"""ImageNet's validation images, from files written here as published: what is read, and that the layout is all one."""

from __future__ import annotations

import logging
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
from torchvision import datasets

from attention_chains.data.imagenet import ARCHIVE, ImageNet, class_names, synsets

COUNT = 1003  # each class once, three of them twice
MODES = {5: "L", 6: "CMYK"}
# ILSVRC2012_ID -> synset: 1 to 1000, in another order than the synsets' own
NUMBERED = dict(enumerate(np.random.RandomState(1).permutation(synsets()).tolist(), start=1))
TRUTH = np.random.RandomState(2).permutation([*NUMBERED, 17, 17, 400]).tolist()
NAMES = [f"ILSVRC2012_val_{number:08d}" for number in range(1, COUNT + 1)]


@pytest.fixture(scope="module")
def contents(jpeg) -> dict[str, bytes]:
    return {f"{name}.JPEG": jpeg(number, MODES.get(number, "RGB")) for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def archives(tmp_path_factory, contents, write_tar, devkit) -> Path:
    """The folder of the two archives; the images are packed in another order than that of their names."""
    folder = tmp_path_factory.mktemp("archives")
    shuffled = random.Random(0).sample(list(contents), COUNT)
    write_tar(folder / ARCHIVE, {name: contents[name] for name in shuffled})
    devkit(folder, NUMBERED, TRUTH)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, contents) -> Path:
    """The same images, each in the folder of its synset."""
    root = tmp_path_factory.mktemp("folders")
    for (name, content), number in zip(contents.items(), TRUTH, strict=True):
        (root / NUMBERED[number]).mkdir(exist_ok=True)
        (root / NUMBERED[number] / name).write_bytes(content)
    return root


# What is read


def test_images_and_labels_are_those_that_torchvision_reads_from_the_archives(archives, tmp_path, monkeypatch):
    for file in archives.iterdir():
        shutil.copy(file, tmp_path)
    unchecked = {part: (name, None) for part, (name, _) in datasets.imagenet.ARCHIVE_META.items()}
    monkeypatch.setattr(datasets.imagenet, "ARCHIVE_META", unchecked)  # these archives have other MD5 sums
    reference = datasets.ImageNet(tmp_path, "val")
    expected = {Path(path).stem: (label, number) for number, (path, label) in enumerate(reference.imgs)}
    data = ImageNet(archives)
    assert data.ids == NAMES and data.labels == [expected[name][0] for name in NAMES]
    assert reference.wnids == list(synsets())
    for sample in data:
        image, label = reference[expected[sample.id][1]]
        assert sample.label == label and np.array_equal(sample.image, np.asarray(image))
        assert sample.class_name == open_clip.IMAGENET_CLASSNAMES[label]


def test_classes_are_the_sorted_synsets_under_openais_names():
    names = dict(zip(synsets(), class_names(), strict=True))
    assert len(synsets()) == 1000 and list(synsets()) == sorted(synsets())
    known = {"n01440764": "tench", "n02123045": "tabby cat", "n02391049": "zebra", "n15075141": "toilet paper"}
    assert {wnid: names[wnid] for wnid in known} == known
    assert class_names() == list(open_clip.IMAGENET_CLASSNAMES)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("n", [None, 30, 5000])
def test_every_layout_gives_the_same_data_set(archives, folders, n, seed):
    first, second = ImageNet(folders, n, seed), ImageNet(archives, n, seed)
    assert (first.ids, first.labels, first.fingerprint) == (second.ids, second.labels, second.fingerprint)
    for index in range(30):
        assert np.array_equal(first[index].image, second[index].image)


def test_the_archive_itself_or_the_parent_of_val_may_be_named(archives, folders, tmp_path):
    (tmp_path / "val").symlink_to(folders)
    expected = ImageNet(folders, 20).fingerprint
    assert ImageNet(archives / ARCHIVE, 20).fingerprint == ImageNet(tmp_path, 20).fingerprint == expected


def test_grey_and_four_channel_photographs_become_rgb(archives):
    data = ImageNet(archives)
    for index in (*MODES, 0):
        assert data[index].image.dtype == np.uint8 and data[index].image.shape[2] == 3
        assert data[index].image.flags.writeable
    assert (data[5].image[..., 0] == data[5].image[..., 2]).all()


def test_a_part_of_the_classes_keeps_their_numbers(folders, tmp_path):
    chosen = [synsets()[number] for number in (3, 999, 500)]
    for wnid in chosen:
        (tmp_path / wnid).symlink_to(folders / wnid)
    data = ImageNet(tmp_path)
    assert set(data.labels) == {3, 999, 500} and data.classes == class_names()


def test_other_files_and_hidden_ones_are_no_images(folders, tmp_path, contents):
    data = ImageNet(folders)
    copy = tmp_path / "copy"
    shutil.copytree(folders, copy)
    wnid = copy / synsets()[0]
    for name in ("notes.txt", "._ILSVRC2012_val_00000001.JPEG", "checksums"):
        (wnid / name).write_bytes(b"something else")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "thumb.jpeg").write_bytes(b"")
    (copy / "LICENSE.txt").write_text("terms")
    assert ImageNet(copy).fingerprint == data.fingerprint


def test_ids_and_labels_need_no_image(folders, tmp_path):
    for wnid in folders.iterdir():
        (tmp_path / wnid.name).mkdir()
        for file in wnid.iterdir():
            (tmp_path / wnid.name / file.name).write_bytes(b"")
    empty, full = ImageNet(tmp_path, 50), ImageNet(folders, 50)
    assert (empty.ids, empty.labels) == (full.ids, full.labels)


def test_files_of_one_name_get_distinct_ids(tmp_path, jpeg):
    first, second = synsets()[:2]
    for number, name in enumerate((f"{first}/a.JPEG", f"{second}/a.JPEG", f"{second}/a.png", f"{second}/b.JPEG")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(number, kind="PNG" if name.endswith("png") else "JPEG"))
    data = ImageNet(tmp_path)
    assert data.ids == [f"{first}/a.JPEG", f"{second}/a.JPEG", f"{second}/a.png", "b"]
    assert data.labels == [0, 1, 1, 1] and [sample.id for sample in data] == data.ids


def test_indices_count_from_either_end_and_stop(archives):
    data = ImageNet(archives, 4)
    assert data[-1].id == data.ids[3] and len(data) == 4
    with pytest.raises(IndexError):
        data[4]


def test_another_number_of_images_is_only_noted(archives, caplog):
    with caplog.at_level(logging.WARNING):
        ImageNet(archives, 4)
    assert f"holds {COUNT} images; the published validation set holds 50000" in caplog.text


def test_a_pickled_copy_reads_the_same(archives):
    data = ImageNet(archives, 5)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.ids == data.ids and np.array_equal(copy[3].image, data[3].image)


def test_the_archives_are_read_in_place_and_nothing_is_written(archives, tmp_path):
    before = sorted((file.name, file.stat().st_mtime_ns) for file in archives.iterdir())
    data = ImageNet(archives, 5)
    assert data.fingerprint and data[0].image.size
    assert sorted((file.name, file.stat().st_mtime_ns) for file in archives.iterdir()) == before


# Which images, on which machine


@pytest.mark.parametrize(
    "order", [sorted, lambda found: sorted(found, reverse=True), lambda found: found[1::2] + found[::2]]
)
def test_the_order_in_which_a_machine_lists_its_files_does_not_matter(folders, monkeypatch, order):
    expected = ImageNet(folders, 100)
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(order(sorted(listed(self)))))
    found = ImageNet(folders, 100)
    assert (found.ids, found.labels, found.fingerprint) == (expected.ids, expected.labels, expected.fingerprint)


def test_the_images_are_those_that_numpy_draws_from_the_sorted_names(folders):
    np.random.seed(0)
    assert ImageNet(folders, 40, 0).ids == [NAMES[number] for number in np.random.choice(COUNT, 40, replace=False)]


# Fingerprint


def test_the_fingerprint_changes_with_a_byte_of_a_drawn_image_only(folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders, copy)
    data = ImageNet(copy, 10)
    assert re.fullmatch("[0-9a-f]{64}", data.fingerprint)
    (drawn,) = copy.glob(f"*/{data.ids[4]}.JPEG")
    (other,) = copy.glob(f"*/{next(name for name in NAMES if name not in data.ids)}.JPEG")
    other.write_bytes(b"")
    assert ImageNet(copy, 10).fingerprint == data.fingerprint
    content = bytearray(drawn.read_bytes())
    content[-20] ^= 1
    drawn.write_bytes(bytes(content))
    assert ImageNet(copy, 10).fingerprint != data.fingerprint


def test_the_fingerprint_changes_with_a_label(folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders, copy)
    before = ImageNet(copy).fingerprint
    (file,) = copy.glob(f"*/{NAMES[0]}.JPEG")
    shutil.move(file, copy / next(wnid for wnid in synsets() if wnid != file.parent.name))
    assert ImageNet(copy).ids == NAMES and ImageNet(copy).fingerprint != before


def test_an_archive_that_was_replaced_is_read_anew(archives, tmp_path, write_tar, contents, devkit):
    for file in archives.iterdir():
        shutil.copy(file, tmp_path)
    assert len(ImageNet(tmp_path)) == COUNT
    write_tar(tmp_path / ARCHIVE, dict(list(contents.items())[:5]))
    devkit(tmp_path, NUMBERED, TRUTH[:5])
    assert ImageNet(tmp_path).ids == NAMES[:5]
