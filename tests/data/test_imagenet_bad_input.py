"""What is wrong with a copy of ImageNet is told in one sentence; a bad image by name, while the others are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.data.errors import DataError
from attention_chains.data.ilsvrc_devkit import DEVKIT
from attention_chains.data.imagenet import ARCHIVE, URL, ImageNet, synsets
from attention_chains.data.labelled_images import LabelledImages, StoredImage

TOP = "ILSVRC2012_devkit_t12/data"


def refusal(action) -> str:
    with pytest.raises(DataError) as refused:
        action()
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def folders(tmp_path, jpeg) -> Path:
    """Three images of two classes."""
    for number, wnid in enumerate((synsets()[0], synsets()[0], synsets()[1]), start=1):
        (tmp_path / wnid).mkdir(exist_ok=True)
        (tmp_path / wnid / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(jpeg(number))
    return tmp_path


@pytest.fixture
def archives(tmp_path, jpeg, write_tar, devkit) -> Path:
    """Three images in the archives as published, of the synsets 1, 2 and 1."""
    write_tar(tmp_path / ARCHIVE, {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(number) for number in (1, 2, 3)})
    devkit(tmp_path, dict(enumerate(synsets(), start=1)), [1, 2, 1])
    return tmp_path


# Nothing there


@pytest.mark.parametrize("content", [None, "empty", "flat", "other"])
def test_what_is_missing_is_told_with_where_to_get_it(tmp_path, jpeg, content):
    path = tmp_path / "imagenet"
    if content:
        path.mkdir()
    if content == "flat":
        (path / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(1))
    if content == "other":
        (path / "cats").mkdir()
    sentence = refusal(lambda: ImageNet(path))
    assert f"are not at {path}" in sentence and all(each in sentence for each in (URL, ARCHIVE, DEVKIT, "data.path"))


def test_synset_folders_without_an_image_are_refused(tmp_path):
    (tmp_path / synsets()[0]).mkdir()
    assert "hold no image" in refusal(lambda: ImageNet(tmp_path))


def test_an_archive_without_the_devkit_is_refused(archives):
    (archives / DEVKIT).unlink()
    sentence = refusal(lambda: ImageNet(archives))
    assert DEVKIT in sentence and "is not beside it" in sentence and URL in sentence


# Broken archives


@pytest.mark.parametrize("keep", [0, 100, 700, -1200])
def test_half_an_archive_of_images_is_refused(archives, keep):
    path = archives / ARCHIVE
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:keep])
    sentence = refusal(lambda: ImageNet(archives))
    assert str(path) in sentence and URL in sentence
    assert "is no complete tar archive" in sentence or "holds 2 images and" in sentence


def test_another_file_in_place_of_the_archive_is_refused(archives):
    (archives / ARCHIVE).write_bytes(b"<html>404</html>" * 100)
    assert "is no complete tar archive" in refusal(lambda: ImageNet(archives))


@given(share=st.floats(0, 0.99))
def test_half_a_devkit_is_refused(tmp_path_factory, devkit, share):
    path = devkit(tmp_path_factory.mktemp("kit"), {1: synsets()[0], 2: synsets()[1]}, [1, 2])
    (path.parent / ARCHIVE).write_bytes(b"\0" * 10240)  # an archive of nothing
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    sentence = refusal(lambda: ImageNet(path.parent))
    assert "is not the development kit" in sentence and URL in sentence and str(path) in sentence


@pytest.mark.parametrize(
    "change",
    [
        {f"{TOP}/meta.mat": None},
        {f"{TOP}/meta.mat": b"not MATLAB's"},
        {f"{TOP}/ILSVRC2012_validation_ground_truth.txt": None},
        {f"{TOP}/ILSVRC2012_validation_ground_truth.txt": b"1\ntwo\n1\n"},
        {f"{TOP}/ILSVRC2012_validation_ground_truth.txt": b"1\n2000\n1\n"},
        {f"{TOP}/ILSVRC2012_validation_ground_truth.txt": b"1\n\xff\n1\n"},
    ],
    ids=["no synsets", "other synsets", "no truth", "a word", "no such number", "no text"],
)
def test_a_devkit_of_another_layout_is_refused(archives, write_tar, meta_mat, change):
    parts = {
        f"{TOP}/meta.mat": meta_mat(dict(enumerate(synsets(), start=1))),
        f"{TOP}/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1\n",
    }
    write_tar(archives / DEVKIT, {name: data for name, data in (parts | change).items() if data is not None})
    sentence = refusal(lambda: ImageNet(archives))
    assert "is not the development kit" in sentence and URL in sentence


@pytest.mark.parametrize("truth", [[1, 2], [1, 2, 1, 2]])
def test_a_devkit_for_another_number_of_images_is_refused(archives, devkit, truth):
    devkit(archives, dict(enumerate(synsets(), start=1)), truth)
    sentence = refusal(lambda: ImageNet(archives))
    assert f"holds 3 images and {archives / DEVKIT} tells the classes of {len(truth)}" in sentence


# One bad image


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_an_unreadable_image_is_named_and_the_others_are_read(folders, content):
    (bad,) = folders.glob("*/*2.JPEG")
    bad.write_bytes(content)
    data = ImageNet(folders)
    sentence = refusal(lambda: data[1])
    assert str(bad) in sentence and "'ILSVRC2012_val_00000002' cannot be read (its bytes are no whole" in sentence
    assert "data.skip_bad" in sentence
    assert data[0].label == 0 and data[2].label == 1 and data.labels == [0, 0, 1] and data.fingerprint


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_no_other_kind_of_file_is_decoded_whatever_its_name_says(folders, jpeg, kind):
    (bad,) = folders.glob("*/*2.JPEG")
    bad.write_bytes(jpeg(2, kind=kind))
    assert "cannot be read (its bytes are no whole JPEG or PNG)" in refusal(lambda: ImageNet(folders)[1])


def test_half_an_image_is_named(folders):
    (bad,) = folders.glob("*/*2.JPEG")
    bad.write_bytes(bad.read_bytes()[:-60])
    assert "cannot be read" in refusal(lambda: ImageNet(folders)[1])


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_file_that_is_not_there_is_named_rather_than_left_out(folders, kind):
    (bad,) = folders.glob("*/*2.JPEG")
    bad.unlink()
    bad.symlink_to("nowhere") if kind == "link" else bad.mkdir()
    data = ImageNet(folders)
    assert len(data) == 3 and data.fingerprint != ""
    sentence = refusal(lambda: data[1])
    assert os.strerror(2 if kind == "link" else 21) in sentence and str(bad) in sentence


def test_an_image_of_an_archive_is_named(archives):
    path = archives / ARCHIVE
    data = ImageNet(archives)
    stored = data.images[1]
    content = bytearray(path.read_bytes())
    content[stored.offset : stored.offset + stored.size] = b"\0" * stored.size
    path.write_bytes(content)
    sentence = refusal(lambda: data[1])
    assert str(path) in sentence and "ILSVRC2012_val_00000002" in sentence
    assert data[0].id == "ILSVRC2012_val_00000001" and data[2].id == "ILSVRC2012_val_00000003"


@pytest.mark.parametrize("name", ["n99999999", "n00001740", "cats"])
def test_an_unknown_synset_is_named_for_each_of_its_images(folders, jpeg, name):
    (folders / name).mkdir()
    for number in (4, 5):
        (folders / name / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(jpeg(number))
    data = ImageNet(folders)
    assert data.labels == [0, 0, 1, -1, -1]
    for index in (3, 4):
        sentence = refusal(lambda index=index: data[index])
        assert data.ids[index] in sentence and f"is of '{name}', none of ImageNet's 1000 synsets" in sentence
        assert str(folders / name) in sentence and "data.skip_bad" in sentence
    assert data[2].label == 1


def test_an_unknown_synset_of_the_devkit_is_named(archives, devkit):
    devkit(archives, {1: synsets()[7], 2: "n99999999"}, [1, 2, 4])  # 3 and 4 lie above the classes
    data = ImageNet(archives)
    assert data.labels == [7, -1, -1] and data[0].label == 7
    assert "is of 'n99999999', none" in refusal(lambda: data[1])
    assert "is of 'n00001930', none" in refusal(lambda: data[2])


@given(number=st.integers(0, 20), kind=st.sampled_from(["JPEG", "PNG"]), damage=st.data())
def test_damaged_bytes_are_read_or_refused_but_nothing_else(tmp_path_factory, jpeg, number, kind, damage):
    content = bytearray(jpeg(number, kind=kind))
    for place in damage.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = damage.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "image.jpeg"
    path.write_bytes(content[: damage.draw(st.integers(0, len(content)))])
    data = LabelledImages([StoredImage("image", 0, path)], ["thing"])
    try:
        assert data[0].image.shape[2] == 3
    except DataError as error:
        assert str(path) in str(error) and "data.skip_bad" in str(error)
