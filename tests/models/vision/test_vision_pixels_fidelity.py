"""Every family sees an image as its checkpoint was trained to: size, crop, interpolation, mean and deviation."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from attention_chains.models.preprocessing import BICUBIC, BILINEAR, Preprocessing, crop, crop_of_256, squash

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
STATISTICS = {"vit": HALF, "clip": CLIP, "dinov1": IMAGENET, "dinov2": IMAGENET}


def by_hand(image: np.ndarray, side: int, resized: int | None, method: int, statistics: tuple) -> np.ndarray:
    """PIL's resize and a centre crop, or a squash where `resized` is None; (3, side, side) float64."""
    height, width = image.shape[:2]
    size = (side, side)
    if resized is not None:
        short = min(height, width)
        size = tuple(resized if length == short else int(resized * length / short) for length in (width, height))
    pixels = np.asarray(Image.fromarray(image).resize(size, method)) / 255
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    cut = pixels[top : top + side, left : left + side]
    return ((cut - statistics[0]) / statistics[1]).transpose(2, 0, 1)


@given(
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    side=st.sampled_from([16, 32, 64]),
    way=st.sampled_from(["crop_of_256", "crop", "squash"]),
    bilinear=st.booleans(),
)
def test_an_image_becomes_a_square_as_pil_makes_it_by_hand(height, width, side, way, bilinear):
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    square = {"crop_of_256": crop_of_256, "crop": crop, "squash": squash}[way]
    interpolation, method = (BILINEAR, Image.BILINEAR) if bilinear else (BICUBIC, Image.BICUBIC)
    resized = {"crop_of_256": side * 256 // 224, "crop": side, "squash": None}[way]
    preprocess = Preprocessing(side, 8, square, interpolation, *CLIP)
    actual = preprocess([image], CPU, torch.float32)[0]
    np.testing.assert_allclose(actual.numpy(), by_hand(image, side, resized, method, CLIP), atol=2e-6)


def test_dinos_pixels_at_224_are_those_of_imagenets_evaluation(tiny_at_224, photographs):
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=224 / 256, mean=IMAGENET[0], std=IMAGENET[1]
    )
    for family in ("dinov1", "dinov2"):
        for image in photographs:
            actual = tiny_at_224(family).pixels([image])[0]
            assert torch.allclose(actual, transform(Image.fromarray(image)), atol=1e-6)


def test_clips_pixels_are_open_clips(tiny_at_224, photographs):
    transform = open_clip.image_transform(224, is_train=False, mean=CLIP[0], std=CLIP[1])
    for image in photographs:
        assert torch.allclose(tiny_at_224("clip").pixels([image])[0], transform(Image.fromarray(image)), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "resize", "resized", "method"),
    [
        ("vit", None, None, Image.BILINEAR),  # google's processor squashes (protocol 4.1)
        ("vit", "squash", None, Image.BILINEAR),
        ("vit", "crop", 256, Image.BILINEAR),
        ("clip", None, 224, Image.BICUBIC),
        ("clip", "squash", None, Image.BICUBIC),
        ("dinov1", None, 256, Image.BICUBIC),
        ("dinov2", None, 256, Image.BICUBIC),
        ("dinov2", "squash", None, Image.BICUBIC),
    ],
)
def test_each_family_has_its_own_way_to_a_square_and_another_can_be_chosen(
    tiny_at_224, photographs, family, resize, resized, method
):
    model = tiny_at_224(family, resize=resize)
    for image in photographs:
        expected = by_hand(image, 224, resized, method, STATISTICS[family])
        np.testing.assert_allclose(model.pixels([image])[0].numpy(), expected, atol=2e-6)


def test_probing_sizes_are_resized_as_the_papers_code_does(tiny, load, photographs):
    model = load("dinov1", source=str(tiny("dinov1").folder), image_size=240)
    expected = by_hand(photographs[0], 240, 274, Image.BICUBIC, IMAGENET)  # int(240 * 256 / 224), protocol 0.3
    np.testing.assert_allclose(model.pixels(photographs[:1])[0].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
def test_an_images_pixels_do_not_depend_on_its_batch(tiny_at_224, photographs, family):
    model = tiny_at_224(family)
    batch = model.pixels([*photographs, photographs[0]])
    assert torch.equal(batch[0], batch[2]) and torch.equal(batch[1:2], model.pixels(photographs[1:]))


@pytest.fixture
def tiny_at_224(tiny, load):
    def at_224(family: str, **settings: object):
        names = {"classes": ["cat", "dog"]} if family == "clip" else {}
        return load(family, source=str(tiny(family).folder), image_size=224, **names, **settings)

    return at_224
