"""At another image size the grid and the position embeddings are what the original makes of them."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.capture import capture
from attention_chains.models.dinov1 import resample

# family, native side, patch, probed side (protocol 5), grid
PROBED = [
    ("dinov1", 224, 16, 480, 30),
    ("dinov1", 224, 8, 240, 30),
    ("dinov2", 518, 14, 420, 30),
    ("vit", 224, 16, 480, 30),
]
ARCHITECTURES = {
    "vit": "vit_base_patch16_224",
    "dinov1": "vit_base_patch16_224.dino",
    "dinov2": "vit_base_patch14_reg4_dinov2.lvd142m",
}


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    t = np.abs(distance)
    near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def plain_weights(old: int, new: int, scale: float) -> np.ndarray:
    """(new, old) bicubic weights with a = -0.75 and repeated borders; `scale` says where the outputs lie."""
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) / scale - 0.5
        for j in range(floor(centre) - 1, floor(centre) + 3):
            weights[i, min(max(j, 0), old - 1)] += cubic(np.array(centre - j), -0.75)
    return weights


def antialiased_weights(old: int, new: int) -> np.ndarray:
    """(new, old) bicubic weights with a = -0.5, the kernel as wide as the step where the grid shrinks."""
    step = old / new
    width = max(step, 1)
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * step
        columns = np.arange(max(0, floor(centre - 2 * width)), min(old, ceil(centre + 2 * width)))
        weights[i, columns] = cubic((columns + 0.5 - centre) / width, -0.5)
    return weights / weights.sum(1, keepdims=True)


def moved(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Maps (h, w, D) by the weights (new, old) along both sides: (new * new, D)."""
    return np.einsum("ih,jw,hwd->ijd", weights, weights, maps).reshape(-1, maps.shape[-1])


@given(old=st.integers(4, 20), new=st.integers(2, 40), seed=st.integers(0, 99))
def test_dinos_positions_are_bicubic_with_the_offset_in_the_scale(old, new, seed):
    maps = torch.randn(1, 3, old, old, generator=torch.Generator().manual_seed(seed))
    expected = moved(maps[0].permute(1, 2, 0).double().numpy(), plain_weights(old, new, (new + 0.1) / old))
    actual = resample(maps, (new, new))
    assert actual.shape == (1, 3, new, new)
    np.testing.assert_allclose(actual[0].flatten(1).T.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("family", "native", "patch", "side", "rows"), PROBED)
def test_the_papers_probing_sizes_give_its_grid_and_the_originals_positions(
    timm_folder, load, family, native, patch, side, rows
):
    made = timm_folder(ARCHITECTURES[family], img_size=native, patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    model = load(family, source=str(made.folder), image_size=side)
    first, old = (0 if made.network.no_embed_class else 1), native // patch
    before, after = made.network.pos_embed[0], model.network.pos_embed[0]
    weights = plain_weights(old, rows, (rows + 0.1) / old) if family == "dinov1" else antialiased_weights(old, rows)
    expected = moved(before[first:].unflatten(0, (old, old)).double().numpy(), weights)
    assert model.grid == (rows, rows)
    assert torch.equal(before[:first], after[:first])
    np.testing.assert_allclose(after[first:].numpy(), expected, atol=1e-5)


def test_clips_positions_go_from_14_to_30_rows_by_antialiased_bicubic(clip_folder, load):
    sizes = {"image_size": 224, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
    made = clip_folder("ViT-B-16-quickgelu", **sizes)
    model = load("clip", source=str(made.folder), image_size=480, classes=["cat", "dog"])
    before, after = made.network.visual.positional_embedding, model.network.visual.positional_embedding
    expected = moved(before[1:].unflatten(0, (14, 14)).double().numpy(), antialiased_weights(14, 30))
    assert model.grid == (30, 30)
    assert torch.equal(before[0], after[0])
    np.testing.assert_allclose(after[1:].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
@pytest.mark.parametrize("side", [24, 32, 56])
def test_the_attention_of_any_size_is_over_cls_registers_and_the_grid(tiny, load, photographs, family, side):
    model = load(family, source=str(tiny(family).folder), image_size=side, **_names(family))
    pixels = model.pixels(photographs)
    with capture(model.network, layers=model.blocks) as tape:
        model.forward(pixels)
    tokens = 1 + {"dinov2": 4}.get(family, 0) + (side // 8) ** 2
    assert pixels.shape == (2, 3, side, side) and model.grid == (side // 8, side // 8)
    assert {tape[layer].q.shape[-2] for layer in model.blocks} == {tokens}


@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
def test_at_the_native_size_positions_stay_bit_for_bit(tiny, load, family):
    made = tiny(family)
    model = load(family, source=str(made.folder), image_size=32, **_names(family))
    name = "visual.positional_embedding" if family == "clip" else "pos_embed"
    assert torch.equal(model.network.get_parameter(name), made.network.get_parameter(name))


def _names(family: str) -> dict:
    return {"classes": ["cat", "dog"]} if family == "clip" else {}
