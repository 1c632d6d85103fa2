"""The reference set: scenes as the miniature knows them, a folder, and tars in the layout of img2dataset."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attention_chains.data.digit_scenes import make_scene
from attention_chains.data.errors import DataError
from attention_chains.data.reference import Compared, centre_square, open_reference


def section(kind: str, path: Path | None = None, **given) -> SimpleNamespace:
    """The keys of a data section that the reader takes."""
    keys = dict(reference_n=None, reference_crop=None, seed=0, min_score=None, min_width=None, min_height=None)
    return SimpleNamespace(reference=kind, reference_path=None if path is None else str(path), **keys | given)


def encoded(number: int, width: int, height: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture
def tars(tmp_path: Path, write_tar) -> Path:
    """Two shards as img2dataset writes them: image, caption and json of each link that lived; dead ones are counted."""
    images = [  # score, width and height on the web
        (6.70, 900, 600), (6.65, 900, 600), (7.10, 512, 600), (6.90, 700, 512), ("6.81", 640, 640), (7.5, 513, 900)
    ]  # fmt: skip
    folder = tmp_path / "laion"
    folder.mkdir()
    for shard, part in enumerate((images[:3], images[3:])):
        content: dict[str, bytes] = {}
        for i, (score, width, height) in enumerate(part):
            key, image = f"{shard:05d}{i:04d}", encoded(10 * shard + i, 20, 12 + i, "JPEG")
            said = {"AESTHETIC_SCORE": score, "WIDTH": width, "HEIGHT": height, "status": "success", "key": key}
            said |= {"sha256": hashlib.sha256(image).hexdigest(), "width": 20, "height": 12 + i}
            content |= {f"{key}.jpg": image, f"{key}.txt": b"a caption", f"{key}.json": json.dumps(said).encode()}
        write_tar(folder / f"{shard:05d}.tar", content)
        stats = {"count": len(part) + 4, "successes": len(part), "failed_to_download": 3, "failed_to_resize": 1}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    return folder


LAION = {"min_score": 6.65, "min_width": 512, "min_height": 512, "reference_crop": 8}


def test_scenes_are_held_out_and_take_turns_as_the_miniature_learned_them() -> None:
    found = open_reference(section("digit_scenes", reference_n=6, seed=3))
    assert len(found) == len(set(found.ids)) == 6
    for i in range(6):
        scene = make_scene("test", 3, i, "portrait" if i % 2 else "mixed")
        np.testing.assert_array_equal(found[i].image, scene.image)
    assert [found[i].id for i in range(6)] == found.ids and found.skipped == {}


def test_tars_keep_what_is_strictly_above_every_limit_and_count_the_rest(tars: Path) -> None:
    found = open_reference(section("webdataset", tars, **LAION))
    assert found.ids == ["00000/000000000", "00001/000010001", "00001/000010002"]
    assert found.skipped == {
        "dead links": 8,
        "with AESTHETIC_SCORE of 6.65 or less": 1,
        "with WIDTH of 512 or less": 1,
        "with HEIGHT of 512 or less": 1,
    }
    for place, number in enumerate((0, 11, 12)):
        whole = decoded(encoded(number, 20, 12 + number % 10, "JPEG"))
        np.testing.assert_array_equal(found[place].image, centre_square(whole, 8))


def test_tars_are_cut_to_the_number_asked_for(tars: Path) -> None:
    whole = open_reference(section("webdataset", tars, **LAION))
    cut = open_reference(section("webdataset", tars, **LAION, reference_n=2))
    assert cut.ids == whole.ids[:2] and cut.fingerprint != whole.fingerprint
    with pytest.raises(DataError, match=r"holds 3 images \(left out: .*8 dead links.*fewer than data\.reference_n=4"):
        open_reference(section("webdataset", tars, **LAION, reference_n=4))


def test_a_dead_link_inside_a_tar_is_counted_and_not_read(tmp_path: Path, write_tar) -> None:
    """Other writers keep the json of a link that gave nothing."""
    content = {"./0.json": b'{"status": "failed_to_download"}', "./1.json": b"{}", "./1.jpg": encoded(0, 8, 8, "JPEG")}
    content |= {"./2.json": b'{"status": "failed_to_resize"}', "./2.jpg": b"", "./3.png": encoded(1, 8, 8)}
    write_tar(tmp_path / "a.tar", content)
    found = open_reference(section("webdataset", tmp_path))
    assert found.ids == ["a/1", "a/3"] and found.skipped == {"dead links": 2}
    np.testing.assert_array_equal(found[1].image, decoded(encoded(1, 8, 8)))


def test_a_folder_is_read_in_the_order_of_its_names_whatever_holds_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    names = ["b.png", "deep/a.jpg", "a.webp"]
    for number, name in enumerate(names):
        kind = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rpartition(".")[2]]
        (tmp_path / name).write_bytes(encoded(number, 16, 16, kind))
    (tmp_path / "notes.txt").write_text("no image")
    found = open_reference(section("folder", tmp_path))
    assert found.ids == sorted(names)
    np.testing.assert_array_equal(found[1].image, decoded((tmp_path / "b.png").read_bytes()))
    assert open_reference(section("folder", tmp_path, reference_n=2)).ids == sorted(names)[:2]


def test_the_centre_square_is_what_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200  # the centre
    np.testing.assert_array_equal(centre_square(wide, 7), np.full((7, 7, 3), 200))
    np.testing.assert_array_equal(centre_square(wide.transpose(1, 0, 2), 7), np.full((7, 7, 3), 200))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((9, 9), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(centre_square(pixels, 9), expected)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(encoded(number, 16, 16))
    return tmp_path / "images"


def test_the_fingerprint_is_the_images_and_not_where_they_lie(folder: Path, tars: Path, tmp_path: Path) -> None:
    first = open_reference(section("folder", folder)).fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert open_reference(section("folder", moved)).fingerprint == first
    assert open_reference(section("folder", moved, reference_crop=8)).fingerprint != first
    (moved / "1.png").write_bytes(encoded(9, 16, 16))
    assert open_reference(section("folder", moved)).fingerprint != first
    laion = open_reference(section("webdataset", tars, **LAION)).fingerprint
    assert open_reference(section("webdataset", tars.rename(tmp_path / "elsewhere"), **LAION)).fingerprint == laion
    scenes = [open_reference(section("digit_scenes", reference_n=4, seed=seed)).fingerprint for seed in (0, 0, 1)]
    assert scenes[0] == scenes[1] != scenes[2]


def test_a_run_depends_on_its_prompts_and_on_its_reference() -> None:
    def compared(prompts: str, n: int) -> Compared:
        samples = SimpleNamespace(fingerprint=prompts, ids=["a"])
        return Compared(samples, open_reference(section("digit_scenes", reference_n=n)))

    assert compared("p", 4).fingerprint == compared("p", 4).fingerprint
    assert len({compared("p", 4).fingerprint, compared("q", 4).fingerprint, compared("p", 5).fingerprint}) == 3


def test_one_size_mixed_in_is_refused_unless_all_are_cropped(folder: Path) -> None:
    (folder / "1.png").write_bytes(encoded(1, 16, 17))
    with pytest.raises(DataError, match=r"'1\.png' has 16 x 17 pixels and the first 16 x 16: .*data\.reference_crop"):
        open_reference(section("folder", folder))
    assert open_reference(section("folder", folder, reference_crop=8))[1].image.shape == (8, 8, 3)


def test_tars_of_several_sizes_that_are_not_cropped_are_refused_when_read(tars: Path) -> None:
    found = open_reference(section("webdataset", tars))
    assert found[0].image.shape == (12, 20, 3)
    with pytest.raises(DataError, match=r"'00000/000000001' has 20 x 13 pixels and the first 20 x 12"):
        found[1]


def broken_tar(tars: Path) -> None:
    whole = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(whole[: len(whole) // 3])


def unreadable_json(tars: Path) -> None:
    path = tars / "00000.tar"
    path.write_bytes(path.read_bytes().replace(b'{"AESTHETIC_SCORE"', b'["AESTHETIC_SCORE"'))


def other_columns(tars: Path) -> None:
    path = tars / "00000.tar"
    path.write_bytes(path.read_bytes().replace(b"AESTHETIC_SCORE", b"ESTHETICS_SCORE"))


def other_stats(tars: Path) -> None:
    (tars / "00000_stats.json").write_text('{"count": 3}')


def no_tar(tars: Path) -> None:
    for path in tars.glob("*.tar"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken_tar, r"00001\.tar is no whole tar .*: download this shard again"),
        (unreadable_json, "its json cannot be read; download this shard again"),
        (other_columns, r"has None as AESTHETIC_SCORE: run img2dataset with save_additional_columns"),
        (other_stats, r"00000_stats\.json is not what img2dataset writes"),
        (no_tar, "holds no tar: set data.reference_path"),
    ],
)
def test_a_damaged_download_is_one_sentence(tars: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(tars)
    with pytest.raises(DataError, match=said) as caught:
        open_reference(section("webdataset", tars, **LAION))
    assert "\n" not in str(caught.value)


def test_an_image_that_is_none_is_named(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"<html>moved</html>")
    with pytest.raises(DataError, match=r"2\.png is no whole JPEG, PNG or WebP"):
        open_reference(section("folder", folder))
    with pytest.raises(DataError, match=r"2\.png is no whole JPEG, PNG or WebP"):
        open_reference(section("folder", folder, reference_crop=8))[2]


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_folder_that_is_not_there_says_which_key_names_it(kind: str, tmp_path: Path) -> None:
    for path in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"The reference set is not at .*: set data\.reference_path to a folder of"):
            open_reference(section(kind, path))


def test_too_few_images_and_no_number_of_scenes_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"holds 3 images, fewer than data\.reference_n=5"):
        open_reference(section("folder", folder, reference_n=5))
    with pytest.raises(DataError, match=r"data\.reference_n is None: digit scenes are made to order"):
        open_reference(section("digit_scenes"))
    with pytest.raises(DataError, match=r"data\.reference is 'laion': choose one of digit_scenes, folder, webdataset"):
        open_reference(section("laion"))


def test_an_image_smaller_than_its_crop_is_not_blown_up(tars: Path) -> None:
    """img2dataset shrinks and pads images unless told otherwise: FID would compare with that."""
    found = open_reference(section("webdataset", tars, **LAION | {"reference_crop": 13}))
    with pytest.raises(DataError, match=r"is 20 x 12 pixels, smaller than data.reference_crop=13: .*--resize_mode=no"):
        found[0]
