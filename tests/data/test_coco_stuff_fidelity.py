"""COCO-Stuff from files written here as published: what is read, whatever the layout, and what becomes of a pixel."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from attention_chains.data import coco_list
from attention_chains.data.coco_classes import CLASSES, coarse
from attention_chains.data.coco_list import read_ids
from attention_chains.data.coco_stuff import CocoStuff

# Categories by supercategory, as COCO's and COCO-Stuff's annotation files have them. Things are ids 1 to 91.
THINGS = {
    "person": [1], "vehicle": range(2, 10), "outdoor": range(10, 16), "animal": range(16, 26),
    "accessory": range(26, 34), "sports": range(34, 44), "kitchen": range(44, 52), "food": range(52, 62),
    "furniture": range(62, 72), "electronic": range(72, 78), "appliance": range(78, 84), "indoor": range(84, 92),
}  # fmt: skip
# Stuff is numbered on, from 92, in alphabetical order over all supercategories.
STUFF = {
    "textile": "banner blanket cloth clothes curtain mat napkin pillow rug textile-other towel",
    "plant": "branch bush flower grass leaves moss plant-other straw tree",
    "building": "bridge building-other house roof skyscraper tent",
    "furniture-stuff": "cabinet counter cupboard desk-stuff door-stuff furniture-other light mirror-stuff shelf stairs "
    "table",
    "structural": "cage fence net railing structural-other",
    "raw-material": "cardboard metal paper plastic",
    "floor": "carpet floor-marble floor-other floor-stone floor-tile floor-wood",
    "ceiling": "ceiling-other ceiling-tile",
    "sky": "clouds sky-other",
    "ground": "dirt gravel ground-other mud pavement platform playingfield railroad road sand snow",
    "water": "fog river sea water-other waterdrops",
    "food-stuff": "food-other fruit salad vegetable",
    "solid": "hill mountain rock solid-other stone wood",
    "wall": "wall-brick wall-concrete wall-other wall-panel wall-stone wall-tile wall-wood",
    "window": "window-blind window-other",
}
SHAPES = {  # (height, width): wide, high, square, odd, smaller than the size read, and of one row less
    "000000000139": (48, 70),
    "000000000285": (70, 48),
    "000000000632": (64, 64),
    "000000000724": (33, 51),
    "000000000776": (17, 12),
    "000000000785": (80, 81),
}
LISTED = ["000000000139", "000000000632", "000000000724", "000000000776", "000000000785"]


@pytest.fixture(scope="module")
def contents() -> dict[str, dict[str, bytes]]:
    """Encoded images and label maps by name; one image has a single channel."""
    draw = np.random.default_rng(0)
    images, labels = {}, {}
    for name, shape in SHAPES.items():
        values = draw.choice([*range(182), 255], shape).astype(np.uint8)
        pixels = draw.integers(0, 256, shape if name == "000000000632" else (*shape, 3), np.uint8)
        images[name], labels[name] = encoded(pixels, "JPEG"), encoded(values, "PNG")
    return {"images": images, "labels": labels}


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("list") / "Coco164kFull_Stuff_Coarse_7.txt"
    path.write_text("".join(f"{name}\n" for name in LISTED))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory, contents) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("folders")
    for kind, part, suffix in (("images", "val2017", "jpg"), ("labels", "stuffthingmaps/val2017", "png")):
        (root / part).mkdir(parents=True)
        for name, content in contents[kind].items():
            (root / part / f"{name}.{suffix}").write_bytes(content)
    return root / "val2017", root / "stuffthingmaps" / "val2017"


@pytest.fixture(scope="module")
def archives(tmp_path_factory, contents) -> tuple[Path, Path]:
    """Both archives; that of the label maps has other maps of the same names, of the training images."""
    root = tmp_path_factory.mktemp("archives")
    with zipfile.ZipFile(root / "val2017.zip", "w") as archive:
        archive.mkdir("val2017")
        for name, content in contents["images"].items():
            archive.writestr(f"val2017/{name}.jpg", content)
    with zipfile.ZipFile(root / "stuffthingmaps_trainval2017.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("train2017", "val2017", "test2017"):
            for name, content in contents["labels"].items():
                archive.writestr(f"{part}/{name}.png", content if part == "val2017" else b"of another part")
    return root / "val2017.zip", root / "stuffthingmaps_trainval2017.zip"


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def centre_square(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    return pixels[(height - side) // 2 :, (width - side) // 2 :][:side, :side]


# Which images


def test_the_list_decides_which_images_are_read_and_in_which_order(folders, tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("000000000785\n000000000139")  # the last line may lack its end
    data = CocoStuff(*folders, path, size=8)
    assert data.ids == ["000000000785", "000000000139"] and len(data) == 2
    assert [sample.id for sample in data] == data.ids
    assert CocoStuff(*folders, path, size=8, n=1).ids == ["000000000785"]
    with pytest.raises(IndexError):
        data[2]


def test_a_list_behind_a_url_is_fetched_once_and_checked(tmp_path, monkeypatch):
    content, asked = "".join(f"{name}\n" for name in LISTED).encode(), []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        coco_list.urllib.request, "urlopen", lambda url, timeout: asked.append(url) or io.BytesIO(content)
    )
    for _ in range(2):
        assert read_ids(coco_list.URL, hashlib.sha256(content).hexdigest()) == LISTED
    assert asked == [coco_list.URL]


# Layouts


def test_folders_and_archives_give_the_same_data_set(folders, archives, listed):
    expected = CocoStuff(*folders, listed, size=16)
    above = [folder.parent for folder in folders]
    for places in (archives, above, (folders[0], archives[1]), (archives[0], above[1])):
        found = CocoStuff(*places, listed, size=16)
        assert (found.ids, found.fingerprint, found.classes) == (expected.ids, expected.fingerprint, list(CLASSES))
        for sample, other in zip(found, expected, strict=True):
            assert (sample.image == other.image).all() and (sample.labels == other.labels).all()


def test_a_data_set_may_be_pickled_with_its_archives_open(archives, listed):
    data = CocoStuff(*archives, listed, size=16)
    expected = data[1].labels
    assert (pickle.loads(pickle.dumps(data))[1].labels == expected).all()


def test_the_fingerprint_is_of_content_and_size_not_of_place(folders, listed, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in folders[1].iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    reference = CocoStuff(*folders, listed, size=16).fingerprint
    assert CocoStuff(folders[0], moved, listed, size=16).fingerprint == reference
    assert CocoStuff(folders[0], moved, listed, size=17).fingerprint != reference
    assert CocoStuff(folders[0], moved, listed, size=16, n=2).fingerprint != reference
    (moved / f"{LISTED[0]}.png").write_bytes((moved / f"{LISTED[1]}.png").read_bytes())
    assert CocoStuff(folders[0], moved, listed, size=16).fingerprint != reference


# Pixels


@pytest.mark.parametrize("size", [16, 64, 100])
def test_images_are_cropped_and_resized_bilinearly_at_pixel_centres(folders, listed, size):
    for sample in CocoStuff(*folders, listed, size=size):
        with Image.open(folders[0] / f"{sample.id}.jpg") as image:
            square = centre_square(np.array(image.convert("RGB"))).astype(np.float64)
        at = (np.arange(size) + 0.5) * len(square) / size - 0.5
        grid = np.meshgrid(at, at, indexing="ij")
        planes = [map_coordinates(square[..., channel], grid, order=1, mode="nearest") for channel in range(3)]
        assert sample.image.dtype == np.uint8 and sample.image.shape == (size, size, 3)
        assert np.abs(sample.image - np.stack(planes, axis=-1)).max() < 0.501


@pytest.mark.parametrize("size", [16, 64, 512])
def test_labels_are_those_at_the_nearest_pixel_centres(folders, listed, size):
    for sample in CocoStuff(*folders, listed, size=size):
        with Image.open(folders[1] / f"{sample.id}.png") as image:
            square = centre_square(coarse(np.array(image)))
        at = (2 * np.arange(size) + 1) * len(square) // (2 * size)
        assert sample.labels.dtype == np.int64
        np.testing.assert_array_equal(sample.labels, square[np.ix_(at, at)])


# Classes


def test_every_fine_class_belongs_to_its_supercategory():
    expected = {number - 1: name for name, numbers in THINGS.items() for number in numbers}
    of_stuff = {fine: name for name, members in STUFF.items() for fine in members.split()}
    expected |= {number: of_stuff[fine] for number, fine in enumerate(sorted(of_stuff), start=91)}
    assert len(expected) == 182
    found = coarse(np.arange(182, dtype=np.uint8)[None])[0]
    assert {value: CLASSES[name] for value, name in enumerate(found)} == expected
    assert coarse(np.array([[255]], np.uint8)).tolist() == [[-1]]


def test_things_are_in_the_ranges_of_the_protocol_sheet():
    starts = {0: 9, 1: 11, 9: 8, 15: 7, 25: 6, 33: 10, 43: 5, 51: 2, 61: 3, 71: 0, 77: 1, 83: 4}
    things = coarse(np.arange(91, dtype=np.uint8)[None])[0]
    changes = [0, *(np.flatnonzero(np.diff(things)) + 1)]
    assert {start: things[start] for start in changes} == starts


# Annotations, a second source of the labels


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """stuff_val2017.json and instances_val2017.json of one image, and the label map they were made from."""
    mask = pytest.importorskip("pycocotools.mask")

    def rle(region: np.ndarray) -> dict:
        made = mask.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": made["size"], "counts": made["counts"].decode()}

    labels = np.full((48, 70), 255, np.uint8)
    labels[:20], labels[20:45, :30] = 156, 123  # sky-other, grass
    stuff = [annotation(1, 157, rle(labels == 156)), annotation(2, 124, rle(labels == 123))]
    labels[10:30, 20:40], labels[40:, 60:] = 16, 0  # a dog over both, a crowd of persons
    crowd = {"size": [48, 70], "counts": columns_runs(labels == 0)}
    square = [20, 10, 40, 10, 40, 30, 20, 30]
    things = [annotation(3, 17, [square]), annotation(4, 1, crowd, iscrowd=1)]
    stuff.append(annotation(5, 183, rle(np.isin(labels, (0, 16)))))  # "other": where things are
    folder = tmp_path_factory.mktemp("annotations")
    for name, content in (("stuff", stuff), ("instances", things)):
        text = json.dumps({"images": [image(139), image(632)], "annotations": content, "categories": []})
        (folder / f"{name}_val2017.json").write_text(text)
    return folder / "stuff_val2017.json", labels


def image(number: int) -> dict:
    return {"id": number, "height": 48, "width": 70, "file_name": f"{number:012d}.jpg"}


def annotation(number: int, category: int, region: object, iscrowd: int = 0) -> dict:
    return {"id": number, "image_id": 139, "category_id": category, "segmentation": region, "iscrowd": iscrowd}


def columns_runs(region: np.ndarray) -> list[int]:
    """Lengths of runs of 0 and 1 in turn, column by column: COCO's uncompressed form."""
    flat = np.concatenate([[0], region.flatten(order="F").astype(int), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff([0, *ends]).tolist()


def test_annotations_are_painted_stuff_first_and_things_over_it(annotations, folders, tmp_path, capsys):
    stuff, fine = annotations
    path = tmp_path / "one.txt"
    path.write_text("000000000139\n")
    data = CocoStuff(folders[0], stuff, path, size=48)
    (sample,) = data
    np.testing.assert_array_equal(sample.labels, centre_square(coarse(fine)))
    assert capsys.readouterr().out == ""
    before = data.fingerprint
    (stuff.parent / "copy").mkdir()
    for name in ("stuff_val2017.json", "instances_val2017.json"):
        (stuff.parent / "copy" / name).write_text((stuff.parent / name).read_text() + "\n")
    assert CocoStuff(folders[0], stuff.parent / "copy" / stuff.name, path, size=48).fingerprint != before
