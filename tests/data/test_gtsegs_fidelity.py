"""The reader of ImageNet-Segmentation, on files written here in the published layout (protocol 1.1)."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import re
import stat

import h5py
import numpy as np
import pytest

from attention_chains.data.errors import DataError
from attention_chains.data.gtsegs import URL, GtSegs

NAMES = ("n02123045_1234", "n02084071_77", "n02123045_9", "n04100000_31337")
SHAPES = ((5, 9), (8, 3), (4, 4), (6, 7))  # (height, width)
WORDS = {"n02123045": "cat", "n02084071": "dog", "n04100000": "sea lion", "n09999999": "unused"}
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
MASKS = [np.triu(np.ones(shape, dtype=bool), k=1) for shape in SHAPES]


def write_gtsegs(path, names=NAMES, images=IMAGES, masks=MASKS):
    """Write MATLAB's v7.3 form of a struct array `value`: a 512-byte header, cells of references, columns first."""
    with h5py.File(path, "w", userblock_size=512) as file:
        fields = {name: [] for name in ("img", "gt", "id", "target")}
        for index, (name, image, mask) in enumerate(zip(names, images, masks, strict=True)):
            codes = np.frombuffer(name.encode("utf-16-le"), dtype="<u2")[:, None]
            inner = _store(file, f"gt{index}", mask.astype(np.uint8).T, "uint8")
            fields["img"].append(_store(file, f"img{index}", image.transpose(2, 1, 0), "uint8"))
            fields["gt"].append(_store(file, f"cell{index}", _references([[inner]]), "cell"))
            fields["id"].append(_store(file, f"id{index}", codes, "char"))
            fields["target"].append(_store(file, f"target{index}", np.array([[1.0 + index]]), "double"))
        value = file.create_group("value")
        for name, references in fields.items():
            value.create_dataset(name, data=_references([[reference] for reference in references]))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def _store(file, name, data, matlab_class):
    dataset = file.require_group("#refs#").create_dataset(name, data=data)
    dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    return dataset.ref


def _references(rows):
    return np.array(rows, dtype=h5py.ref_dtype)


def rewrite(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(name, data):
    def change(file):
        del file[name]
        file[name] = data

    return change


@pytest.fixture
def path(tmp_path):
    return write_gtsegs(tmp_path / "gtsegs_ijcv.mat")


# What is read


def test_images_and_masks_come_out_upright(path):
    data = GtSegs(path, WORDS)
    assert len(data) == len(NAMES)
    for sample, image, mask in zip(data, IMAGES, MASKS, strict=True):
        assert np.array_equal(sample.image, image) and sample.image.dtype == np.uint8
        assert np.array_equal(sample.mask, mask) and sample.mask.dtype == bool
        assert sample.image.flags.c_contiguous and sample.mask.flags.c_contiguous


def test_ids_words_and_prompts_are_those_of_the_file(path):
    data = GtSegs(path, WORDS, prompt="one {word}, alone")
    assert list(data.ids) == list(NAMES) == [sample.id for sample in data]
    assert [sample.word for sample in data] == ["cat", "dog", "cat", "sea lion"]
    assert data[3].prompt == "one sea lion, alone"
    assert data[1].meta == {"index": 1, "wnid": "n02084071"}


def test_the_prompt_is_a_word_unless_told(path):
    assert GtSegs(path, WORDS)[0].prompt == "a cat"


def test_any_foreground_value_counts(tmp_path):
    masks = [mask * np.uint8(255) for mask in MASKS]
    data = GtSegs(write_gtsegs(tmp_path / "gtsegs_ijcv.mat", masks=masks), WORDS)
    assert all(np.array_equal(sample.mask, mask) for sample, mask in zip(data, MASKS, strict=True))


def test_names_that_occur_twice_give_distinct_ids(tmp_path):
    names = ("n02123045_1", "n02123045_2", "n02123045_1", "n02084071_1")
    data = GtSegs(write_gtsegs(tmp_path / "gtsegs_ijcv.mat", names=names), WORDS)
    assert data.ids == ["n02123045_1-0", "n02123045_2", "n02123045_1-2", "n02084071_1"]


def test_indices_count_from_either_end_and_stop(path):
    data = GtSegs(path, WORDS)
    assert data[-1].id == NAMES[-1]
    with pytest.raises(IndexError):
        data[len(NAMES)]


def test_ids_need_no_image(path):
    rewrite(path, lambda file: [replace(f"#refs#/{kind}{i}", 0)(file) for kind in ("img", "gt") for i in range(4)])
    assert list(GtSegs(path, WORDS).ids) == list(NAMES)


def test_another_number_of_images_is_only_noted(path, caplog):
    with caplog.at_level(logging.WARNING):
        GtSegs(path, WORDS)
    assert "holds 4 images; the published file holds 4276" in caplog.text


# Processes


def test_a_pickled_copy_reads_the_same(path):
    data = GtSegs(path, WORDS)
    assert np.array_equal(data[2].image, IMAGES[2])  # open before it is pickled
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy[1].image, IMAGES[1]) and copy.ids == data.ids


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_opens_the_file_for_itself(path):
    data = GtSegs(path, WORDS)
    handle = data._file
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=lambda: results.put((data[1].image, data._file is handle)))
    child.start()
    child.join(60)
    image, shared = results.get()
    assert np.array_equal(image, IMAGES[1]) and not shared
    assert data._file is handle and np.array_equal(data[0].image, IMAGES[0])


# Fingerprint


def test_fingerprint_is_the_same_for_the_same_content(path, tmp_path):
    first = GtSegs(path, WORDS).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first)
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copy.mat"
    copy.write_bytes(path.read_bytes())
    assert GtSegs(copy, WORDS).fingerprint == first == GtSegs(path, WORDS).fingerprint


def test_fingerprint_changes_with_a_pixel(path):
    first = GtSegs(path, WORDS).fingerprint

    def change(file):
        file["#refs#/img3"][0, 0, 0] ^= 1

    rewrite(path, change)
    os.utime(path, ns=(1, 1))  # whatever the clock's resolution
    assert GtSegs(path, WORDS).fingerprint != first


def test_fingerprint_changes_with_a_word_in_use_or_the_prompt_only(path):
    first = GtSegs(path, WORDS).fingerprint
    assert GtSegs(path, WORDS | {"n09999999": "other"}).fingerprint == first
    assert GtSegs(path, WORDS | {"n02084071": "puppy"}).fingerprint != first
    assert GtSegs(path, WORDS, prompt="the {word}").fingerprint != first


def test_the_digest_of_the_file_is_kept_beside_it(path):
    first = GtSegs(path, WORDS).fingerprint
    sidecar = path.with_name("gtsegs_ijcv.mat.sha256.json")
    kept = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(kept | {"sha256": "0" * 64}))
    assert GtSegs(path, WORDS).fingerprint != first  # taken from the sidecar: the file is not hashed again
    sidecar.write_text(json.dumps(kept | {"sha256": "0" * 64, "size": kept["size"] + 1}))
    assert GtSegs(path, WORDS).fingerprint == first
    assert json.loads(sidecar.read_text()) == kept


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_sidecar_is_replaced(path, content):
    first = GtSegs(path, WORDS).fingerprint
    sidecar = path.with_name("gtsegs_ijcv.mat.sha256.json")
    sidecar.write_text(content)
    assert GtSegs(path, WORDS).fingerprint == first
    assert json.loads(sidecar.read_text())["size"] == path.stat().st_size


def test_a_folder_that_cannot_be_written_gives_the_same_fingerprint(path, monkeypatch):
    first = GtSegs(path, WORDS).fingerprint
    path.with_name("gtsegs_ijcv.mat.sha256.json").unlink()
    refusing = path.parent / f"gtsegs_ijcv.mat.sha256.json.{os.getpid()}"
    refusing.mkdir()  # as a folder it refuses the draft, for root too
    assert GtSegs(path, WORDS).fingerprint == first


def test_the_data_file_is_never_written_to(path):
    path.chmod(stat.S_IRUSR)
    before = path.read_bytes(), path.stat().st_mtime_ns
    data = GtSegs(path, WORDS)
    assert [sample.id for sample in data] == list(NAMES) and data.fingerprint
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# Bad input


def refusal(action):
    with pytest.raises(DataError) as refused:
        action()
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_a_missing_file_is_said_with_where_to_get_it(tmp_path):
    sentence = refusal(lambda: GtSegs(tmp_path / "gtsegs_ijcv.mat", WORDS))
    assert "is not at" in sentence and URL in sentence and str(tmp_path) in sentence


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"<html>404</html>"])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "gtsegs_ijcv.mat"
    path.write_bytes(content)
    sentence = refusal(lambda: GtSegs(path, WORDS))
    assert "is no complete HDF5 file" in sentence and URL in sentence


def test_half_a_download_is_refused(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is no complete HDF5 file" in refusal(lambda: GtSegs(path, WORDS))


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.__delitem__("value"),
        lambda file: file.__delitem__("value/gt"),
        replace("value/img", np.zeros((4, 1))),
        lambda file: replace("value/img", file["value/img"][:3])(file),
        lambda file: replace("value/id", file["value/id"][:].T)(file),
        lambda file: [replace(f"value/{name}", file[f"value/{name}"][:0])(file) for name in ("img", "gt", "id")],
    ],
    ids=["no value", "no masks", "no references", "fewer images", "a row", "nothing"],
)
def test_another_layout_is_refused(path, change):
    rewrite(path, change)
    sentence = refusal(lambda: GtSegs(path, WORDS))
    assert "is HDF5, but not gtsegs_ijcv.mat" in sentence and URL in sentence


@pytest.mark.parametrize("codes", [np.array([[0xD800]], dtype="<u2"), np.zeros((0, 1), "<u2"), np.array([[65]], "<u2")])
def test_ids_that_are_no_wordnet_ids_are_refused(path, codes):
    def change(file):
        file["#refs#/other"] = codes
        file["value/id"][2, 0] = file["#refs#/other"].ref

    rewrite(path, change)
    assert "its ids cannot be read" in refusal(lambda: GtSegs(path, WORDS))


def test_all_categories_without_a_word_are_named_at_once(path):
    assert "n02084071, n04100000" in refusal(lambda: GtSegs(path, {"n02123045": "cat"}))


@pytest.mark.parametrize("prompt", ["a photo", "a {wrod}", "a {}", "a {word", "{word} {other}"])
def test_a_prompt_without_a_place_for_the_word_is_refused(path, prompt):
    assert "is no template over {word}" in refusal(lambda: GtSegs(path, WORDS, prompt=prompt))


def pointing(cell, target, entry=1):
    """Point an entry of a cell array at `target`: an array to store, or None for no object at all."""

    def change(file):
        reference = h5py.Reference()
        if target is not None:
            file["#refs#/other"] = target
            reference = file["#refs#/other"].ref
        file[cell][entry, 0] = reference

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (pointing("value/img", None), "cannot be read"),
        (pointing("value/gt", None), "cannot be read"),
        (pointing("value/gt", np.zeros((3, 8), np.uint8)), "cannot be read"),
        (pointing("#refs#/cell1", None, entry=0), "cannot be read"),
        (pointing("value/img", np.zeros((8, 3), np.uint8)), "cannot be read"),
        (pointing("value/img", np.zeros((3, 3, 8), np.float32)), "the image is float32, not uint8"),
        (pointing("value/img", np.zeros((3, 8, 3), np.uint8)), "the mask has shape (8, 3), the image (3, 8)"),
        (pointing("value/img", np.zeros((1, 3, 8), np.uint8)), "the image has shape (8, 3, 1)"),
    ],
)
def test_a_bad_sample_is_named_and_the_others_are_read(path, change, problem):
    rewrite(path, change)
    data = GtSegs(path, WORDS)
    sentence = refusal(lambda: data[1])
    assert problem in sentence and "n02084071_77" in sentence and "image 1" in sentence and str(path) in sentence
    assert np.array_equal(data[0].image, IMAGES[0]) and np.array_equal(data[2].mask, MASKS[2])


def test_an_empty_mask_is_named(tmp_path):
    masks = [*MASKS[:3], np.zeros(SHAPES[3], dtype=bool)]
    data = GtSegs(write_gtsegs(tmp_path / "gtsegs_ijcv.mat", masks=masks), WORDS)
    sentence = refusal(lambda: data[3])
    assert "the mask is empty" in sentence and "n04100000_31337" in sentence and "image 3" in sentence


def test_damaged_pixels_are_named(tmp_path):
    path = tmp_path / "gtsegs_ijcv.mat"
    write_gtsegs(path)

    def change(file):
        packed = file.create_dataset(
            "#refs#/packed", data=IMAGES[1].transpose(2, 1, 0), chunks=(3, 3, 8), fletcher32=True
        )
        file["value/img"][1, 0] = packed.ref

    rewrite(path, change)
    content = path.read_bytes()
    pixels = IMAGES[1].transpose(2, 1, 0).tobytes()
    assert content.count(pixels) == 2  # the first copy, and the one with a checksum
    path.write_bytes(content.replace(pixels, pixels[::-1]))
    data = GtSegs(path, WORDS)
    assert "sample 'n02084071_77' cannot be read" in refusal(lambda: data[1])
