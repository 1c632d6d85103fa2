"""The attention tensor is the aggregation of protocol 3.1, whatever the resolutions, read off the model as it runs."""

from __future__ import annotations

import literal_diffseg as literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.capture import Call, CaptureError
from attention_chains.chain import AttentionChain
from attention_chains.tasks.attention_tensor import ResolutionMeans, aggregate, read_tensor

SIZES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3)


def calls(sizes, heads=3, seed=0):
    """A call of attention over each size, and its heads (H, n, n) in float64."""
    draw = torch.Generator().manual_seed(seed)
    for index, (height, width) in enumerate(sizes):
        q, k = (2 * torch.randn(1, heads, height * width, 4, generator=draw).double() for _ in "qk")
        call = Call(f"layer{index}", q, k, k, 0.5)
        yield call, (0.5 * q @ k.mT).softmax(-1)[0].numpy()


def aggregated(sizes, **choices):
    means = ResolutionMeans({f"layer{index}": size for index, size in enumerate(sizes)})
    layers = []
    for size, (call, heads) in zip(sizes, calls(sizes, **choices), strict=True):
        means(call)
        layers.append((size, heads))
    return aggregate(means.maps()), literal.aggregated(layers)


@settings(max_examples=20)
@given(SIZES, st.integers(0, 10**6))
def test_any_resolutions_are_aggregated_as_written_out(sizes, seed):
    found, expected = aggregated(sizes, seed=seed)
    n = found.shape[-1]
    assert found[0].numpy() == pytest.approx(expected.reshape(n, n), abs=1e-12)
    assert (found.sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("sizes", [[(8, 8), (8, 8), (4, 4), (2, 2), (1, 1)], [(9, 9), (5, 5), (3, 3), (2, 2)]])
def test_resolutions_of_a_unet_multiples_or_not(sizes):
    found, expected = aggregated(sizes, heads=2)
    n = found.shape[-1]
    assert found[0].numpy() == pytest.approx(expected.reshape(n, n), abs=1e-12)


@pytest.mark.parametrize("side", [64, 32, 16, 8])
def test_a_resolution_weighs_as_its_side(side):
    """Where one resolution looks elsewhere, what is left of 120 is the weight of the others."""
    maps = {(s // 8, s // 8): torch.full((1, s**2 // 64, s**2 // 64), 64 / s**2).double() for s in (64, 32, 16, 8)}
    chosen = maps[side // 8, side // 8]
    if side > 8:
        chosen.zero_()[..., 0] = 1  # the first cell, which the last pixel sees nothing of
    expected = (120 - side) / 120 / 64 if side > 8 else 1 / 64
    assert aggregate(maps)[0, :, -1].numpy() == pytest.approx(expected)


def test_one_resolution_alone_is_the_mean_of_its_heads_and_layers():
    sizes = [(3, 4)] * 2
    found, _ = aggregated(sizes)
    expected = np.mean([heads for _, heads in calls(sizes)], axis=(0, 1))
    assert found[0].numpy() == pytest.approx(expected, abs=1e-14)


def test_attention_that_is_no_number_is_refused():
    good = torch.full((1, 4, 4), 0.25)
    for bad in (torch.full((1, 1, 1), torch.nan), torch.zeros(1, 1, 1)):
        with pytest.raises(CaptureError, match=r"over 1 x 1 tokens has a row whose sum is off .* model.dtype=float32"):
            aggregate({(2, 2): good, (1, 1): bad})


def test_a_layer_with_other_tokens_is_refused():
    means = ResolutionMeans({"layer0": (2, 2)})
    with pytest.raises(CaptureError, match="'layer0' attends from 6 to 6 tokens, but its map of 2 x 2 has 4"):
        means(next(calls([(2, 3)]))[0])


# Of a model


def explicit(sd, image):
    """Every layer's size and heads (H, n, n), from hooks on the projections."""
    unet, seen, hooks = sd.pipe.unet, [], []
    for path in sd.layers():
        module = unet.get_submodule(path)
        hooks.append(module.register_forward_hook(_heads(module, seen), with_kwargs=True))
    try:
        with torch.no_grad():
            latents = sd.encode([image], posterior="mean")
            sd.predict(latents, 300, sd.context([""]))
    finally:
        for hook in hooks:
            hook.remove()
    return [((round(heads.shape[-1] ** 0.5),) * 2, heads) for heads in seen]


def _heads(module, seen):
    def hook(_, args, kwargs, output):
        states = args[0].double()
        q, k = (states @ each.weight.double().T for each in (module.to_q, module.to_k))
        q, k = (each[0].unflatten(-1, (module.heads, -1)).transpose(0, 1) for each in (q, k))
        seen.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).numpy())

    return hook


def test_the_tensor_of_a_model_is_that_of_all_its_self_attention(sd, photographs):
    layers = explicit(sd, photographs[0])
    assert [size[0] for size, _ in layers] == [16, 16, 8, 8, 4, 4, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16]
    found = read_tensor(sd, photographs[:1])
    assert found.shape == (1, 256, 256) and found.dtype == torch.float32
    assert found[0].numpy() == pytest.approx(literal.aggregated(layers).reshape(256, 256), abs=1e-6)
    assert (found.sum(-1) - 1).abs().max() < 1e-6
    assert AttentionChain(found).n == 256


def test_the_tensor_does_not_depend_on_chance_and_hears_the_time_step(sd, photographs):
    torch.manual_seed(1)
    first = read_tensor(sd, photographs[:1])
    torch.manual_seed(2)
    assert torch.equal(first, read_tensor(sd, photographs[:1]))
    assert not torch.equal(first, read_tensor(sd, photographs[:1], timestep=10))
    assert not torch.equal(first, read_tensor(sd, photographs[1:2]))


@pytest.mark.parametrize("side", [24, 36])
def test_sizes_that_do_not_halve_evenly_are_read(sd, photographs, side, monkeypatch):
    """Latents of 18 x 18: maps of 18, 9, 5 and 3."""
    monkeypatch.setattr(sd, "image_size", side)
    found = read_tensor(sd, photographs[:1])
    assert found.shape == (1, (side // 2) ** 2, (side // 2) ** 2)
    layers = explicit(sd, photographs[0])
    assert found[0].numpy() == pytest.approx(literal.aggregated(layers).reshape(found.shape[1:]), abs=1e-6)
