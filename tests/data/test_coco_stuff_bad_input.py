"""What is wrong with a copy of COCO-Stuff is told in one sentence that names the file; the other images are read."""

from __future__ import annotations

import io
import json
import sys
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attention_chains.data import coco_annotations, coco_list
from attention_chains.data.coco_annotations import CocoAnnotations
from attention_chains.data.coco_list import read_ids
from attention_chains.data.coco_stuff import IMAGES_URL, LABELS_URL, CocoStuff, open_images, open_labels
from attention_chains.data.errors import DataError

NAMES = ("000000000139", "000000000285", "000000000632")


def refusal(action) -> str:
    with pytest.raises(DataError) as refused:
        action()
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path) -> Path:
    for part in ("val2017", "labels"):
        (tmp_path / part).mkdir()
    for name in NAMES:
        Image.new("RGB", (12, 10)).save(tmp_path / "val2017" / f"{name}.jpg")
        Image.new("L", (12, 10), 7).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "list.txt").write_text("\n".join(NAMES))
    return tmp_path


def open_all(root: Path) -> CocoStuff:
    return CocoStuff(root / "val2017", root / "labels", root / "list.txt", size=8)


def one_is_refused(root: Path) -> str:
    """The second sample cannot be used; the data set can be opened, has a fingerprint, and gives the others."""
    data = open_all(root)
    assert len(data) == 3 and data.fingerprint
    assert [(data[index].labels == 11).all() for index in (0, 2)] == [True, True]
    return refusal(lambda: data[1])


# One bad sample


@pytest.mark.parametrize(("part", "suffix", "url"), [("val2017", "jpg", IMAGES_URL), ("labels", "png", LABELS_URL)])
def test_a_listed_image_or_label_map_that_is_missing_is_named(root, part, suffix, url):
    path = root / part / f"{NAMES[1]}.{suffix}"
    path.unlink()
    sentence = one_is_refused(root)
    assert sentence.startswith(f"{path} is listed but not there") and url in sentence


@pytest.mark.parametrize("value", [182, 200, 254])
def test_an_unmapped_value_of_a_label_map_is_named_even_outside_the_crop(root, value):
    labels = np.full((10, 12), 7, np.uint8)
    labels[3, 0] = value  # the centre square begins at column 1
    path = root / "labels" / f"{NAMES[1]}.png"
    path.write_bytes(png(labels))
    sentence = one_is_refused(root)
    assert sentence.startswith(f"{path} holds the value {value}: COCO-Stuff's maps hold 0 to 181")
    assert "data.skip_bad" in sentence


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((10, 12, 3), np.uint8), np.zeros((10, 12), np.uint16), np.zeros((10, 12), bool)],
    ids=["RGB", "16 bits", "1 bit"],
)
def test_label_maps_of_another_form_are_refused(root, pixels):
    path = root / "labels" / f"{NAMES[1]}.png"
    path.write_bytes(png(pixels))
    assert one_is_refused(root).startswith(f"{path} has shape {pixels.shape} of {pixels.dtype}, not one channel of 8")


def test_a_label_map_of_another_size_than_its_image_is_refused(root):
    path = root / "labels" / f"{NAMES[1]}.png"
    path.write_bytes(png(np.full((12, 10), 7, np.uint8)))
    assert one_is_refused(root).startswith(f"{path} has shape (12, 10), its image (10, 12) (height, width)")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"])
@pytest.mark.parametrize(("part", "suffix"), [("val2017", "jpg"), ("labels", "png")])
def test_an_unreadable_file_is_named(root, part, suffix, content):
    path = root / part / f"{NAMES[1]}.{suffix}"
    path.write_bytes(content)
    assert one_is_refused(root).startswith(f"{path} is no whole JPEG or PNG")


def test_a_damaged_member_of_an_archive_is_named_and_the_others_are_read(root):
    archive = root / "val2017.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name in NAMES:
            made.write(root / "val2017" / f"{name}.jpg", f"val2017/{name}.jpg")
    content = bytearray(archive.read_bytes())
    start = content.index(f"{NAMES[1]}.jpg".encode()) + 40
    content[start : start + 20] = bytes(20)
    archive.write_bytes(content)
    data = CocoStuff(archive, root / "labels", root / "list.txt", size=8)
    assert data[0].id == NAMES[0] and data[2].id == NAMES[2]
    sentence = refusal(lambda: data[1])
    assert sentence.startswith(f"{archive}, {NAMES[1]}.jpg cannot be read") and IMAGES_URL in sentence


# Nothing there


@pytest.mark.parametrize(("opened", "url"), [(open_images, IMAGES_URL), (open_labels, LABELS_URL)])
def test_what_is_missing_is_told_with_where_to_get_it(tmp_path, opened, url):
    assert url in refusal(lambda: opened(tmp_path / "nowhere"))
    assert "holds no" in refusal(lambda: opened(tmp_path))
    (tmp_path / "page.zip").write_bytes(b"<html>404</html>" * 100)
    assert "is no whole zip archive" in refusal(lambda: opened(tmp_path / "page.zip"))
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as made:
        made.writestr("train2017/000000000009.jpg", b"")
        made.writestr("train2017/000000000009.png", b"")
    sentence = refusal(lambda: opened(tmp_path / "train.zip"))
    assert "in a folder val2017" in sentence and url in sentence


@given(share=st.floats(0, 0.99))
def test_half_an_archive_is_refused(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("half") / "val2017.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("val2017/000000000139.jpg", bytes(100))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "is no whole zip archive" in refusal(lambda: open_images(path))


# The list


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("000000000139\n\n000000000285\n", "line 2: '' is no name such as 000000000139"),
        ("000000000139\n000000000285.jpg\n", "line 2: '000000000285.jpg' is no name"),
        ("139\n", "line 1: '139' is no name"),
        ("../../../etc/pw\n", "line 1: '../../../etc/pw' is no name"),
        ("000000000139\n000000000139\n", "lists 000000000139 twice"),
        ("", "lists no image"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, content, problem):
    path = tmp_path / "list.txt"
    path.write_text(content)
    sentence = refusal(lambda: read_ids(path))
    assert str(path) in sentence and problem in sentence


def test_a_list_that_is_not_there_is_told_with_its_url(tmp_path):
    sentence = refusal(lambda: read_ids(tmp_path / "none.txt"))
    assert coco_list.URL in sentence and "data.list" in sentence


def test_a_list_of_another_hash_is_refused(root):
    sentence = refusal(lambda: read_ids(root / "list.txt", "0" * 64))
    assert "has the SHA-256" in sentence and "data.list_sha256" in sentence


def test_another_number_of_images_than_the_published_is_said(root, caplog):
    read_ids(root / "list.txt")
    assert "lists 3 images; the published list of val2017 has 2175" in caplog.text


def test_a_url_needs_a_hash_and_must_answer_with_that_list(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://example.org/list.txt"
    assert f"The SHA-256 of {url} is not known here" in refusal(lambda: read_ids(url))
    monkeypatch.setattr(coco_list.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html>404</html>"))
    assert f"{url} has not the SHA-256 {'1' * 64}" in refusal(lambda: read_ids(url, "1" * 64))
    assert f"has not the SHA-256 {coco_list.SHA256}" in refusal(lambda: read_ids(coco_list.URL))  # it is known

    def offline(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(coco_list.urllib.request, "urlopen", offline)
    sentence = refusal(lambda: read_ids(url, "1" * 64))
    assert "cannot be downloaded" in sentence and "no route" in sentence and str(tmp_path) in sentence
    assert not list(tmp_path.rglob("*.txt"))


# Annotations


def test_annotations_without_pycocotools_say_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)  # as if it were not installed
    assert "pip install pycocotools" in refusal(lambda: open_labels(root / "stuff_val2017.json"))


def write_annotations(folder: Path, regions: list[dict], image: int = 139) -> Path:
    content = {"images": [{"id": image, "height": 10, "width": 12}], "annotations": regions, "categories": []}
    for name in ("stuff_val2017.json", "instances_val2017.json"):
        (folder / name).write_text(json.dumps(content))
    return folder / "stuff_val2017.json"


def test_broken_annotations_are_refused(tmp_path):
    pytest.importorskip("pycocotools")
    stuff = tmp_path / "stuff_val2017.json"
    assert coco_annotations.URLS[stuff.name] in refusal(lambda: CocoAnnotations(stuff))
    for content in ("<html>", "[]", '{"annotations": [1]}'):
        stuff.write_text(content)
        assert str(stuff) in refusal(lambda: CocoAnnotations(stuff))
    stuff.write_text('{"images": [], "annotations": []}')
    sentence = refusal(lambda: CocoAnnotations(stuff))
    assert "instances_val2017.json" in sentence and "annotations_trainval2017.zip" in sentence


@pytest.mark.parametrize("change", [{"category_id": 184}, {"category_id": 0}, {"segmentation": {"counts": "?"}}])
def test_a_broken_annotation_is_named_by_its_image(tmp_path, change):
    pytest.importorskip("pycocotools")
    region = {"id": 1, "image_id": 139, "category_id": 7, "segmentation": [[0, 0, 5, 0, 5, 5]], "iscrowd": 0}
    source = CocoAnnotations(write_annotations(tmp_path, [region | change]))
    sentence = refusal(lambda: source.labels("000000000139"))
    assert "image 000000000139 has a broken annotation" in sentence


def test_an_image_that_the_annotations_do_not_know_is_named(tmp_path):
    pytest.importorskip("pycocotools")
    source = CocoAnnotations(write_annotations(tmp_path, [], image=285))
    assert "image 000000000139 is listed but not there" in refusal(lambda: source.labels("000000000139"))
