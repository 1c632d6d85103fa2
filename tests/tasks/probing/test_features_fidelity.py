"""Cached features are the maps of the attention, computed here from the network's own q and k in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_chains.config import MethodConfig
from attention_chains.tasks import extraction
from attention_chains.tasks.extraction import FeatureSet
from attention_chains.tasks.probing import strategy
from attention_chains.tasks.seeds import noise_seed

LAYERS, HEADS, PATCHES = 3, 2, 16
HALF = {"rtol": 2e-3, "atol": 1e-6}  # float16 keeps 11 bits, and steps of 6e-8 near zero


def attention(vision, images) -> np.ndarray:
    """(B, layers, heads, 17, 17) float64, from q and k as the blocks computed them."""
    found = []

    def keep(module, _, output):
        q, k, _ = output.double().unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, d) each
        found.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))

    hooks = [block.attn.qkv.register_forward_hook(keep) for block in vision.network.blocks]
    with torch.no_grad():
        vision.network.forward_features(vision.pixels(images))
    for hook in hooks:
        hook.remove()
    return torch.stack(found, 1).numpy()


def cut(matrix: np.ndarray) -> np.ndarray:
    """Without CLS, rows normalised."""
    inner = matrix[..., 1:, 1:]
    return inner / inner.sum(-1, keepdims=True)


def stationary(chain: np.ndarray, alpha: float = 0.99) -> np.ndarray:
    """Left eigenvector of eigenvalue 1 of the teleported chain."""
    n = chain.shape[-1]
    values, vectors = np.linalg.eig((alpha * chain + (1 - alpha) / n).swapaxes(-1, -2))
    vector = np.take_along_axis(vectors, values.real.argmax(-1)[..., None, None], -1)[..., 0].real
    return vector / vector.sum(-1, keepdims=True)


def second_eigenvalue(chain: np.ndarray) -> np.ndarray:
    return np.sort(np.abs(np.linalg.eigvals(chain)), -1)[..., -2]


def random_rows(matrix: np.ndarray, ids: list[str], seed: int) -> np.ndarray:
    rows = np.empty((*matrix.shape[:3], PATCHES))
    for image, layer in np.ndindex(matrix.shape[:2]):
        generator = torch.Generator().manual_seed(noise_seed(seed, f"{ids[image]}/blocks.{layer}.attn"))
        rows[image, layer] = cut(matrix)[image, layer, :, int(torch.randint(PATCHES, (), generator=generator))]
    return rows


def weighted(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the heads' cut chains: (B, layers, 1, 16, 16)."""
    share = weights / weights.sum(-1, keepdims=True)
    return (cut(matrix) * share[..., None, None]).sum(-3, keepdims=True)


def random_weights(matrix: np.ndarray, seed: int) -> np.ndarray:
    draws = np.empty(matrix.shape[:3])
    for layer in range(matrix.shape[1]):
        generator = torch.Generator().manual_seed(noise_seed(seed, f"blocks.{layer}.attn"))
        draws[:, layer] = torch.rand(HEADS, generator=generator).numpy()
    return draws


MAPS = {
    "column_sum": (MethodConfig(name="column_sum"), lambda a, ids: cut(a).mean(-2)),
    "cls": (MethodConfig(name="cls"), lambda a, ids: a[..., 0, 1:]),
    "center_row": (MethodConfig(name="center_row"), lambda a, ids: cut(a)[..., 10, :]),
    "random_row": (MethodConfig(name="random_row"), lambda a, ids: random_rows(a, ids, 5)),
    "tokenrank": (MethodConfig(name="tokenrank", alpha=0.99), lambda a, ids: stationary(cut(a))),
    "power": (
        MethodConfig(name="tokenrank", power=20),
        lambda a, ids: np.linalg.matrix_power(cut(a), 20).mean(-2),
    ),
}
MEANS = {
    "uniform": lambda a, ids: np.ones(a.shape[:3]),
    "random": lambda a, ids: random_weights(a, 5),
    "lambda2": lambda a, ids: second_eigenvalue(cut(a)),
}


@pytest.fixture
def extracted(vision, scenes, tmp_path):
    """Method in; cached features (images, layers, maps, patches) and what they were read from out."""

    def extract(spec, probe="maps", batch_size=4):
        each = strategy(spec, probe, 5)
        found = FeatureSet(scenes, tmp_path, "x", {}, batch_size, False).features([each], lambda: vision)[each.name]
        return found.read(found.there).reshape(len(scenes), *found.shape).astype(float)

    return extract


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_every_layer_and_head_are_those_of_the_attention(extracted, vision, scenes, name):
    spec, expected = MAPS[name]
    matrix = attention(vision, [scene.image for scene in scenes])
    assert matrix.std(-1).mean() > 0.01  # the heads do look somewhere
    found = extracted(spec)
    assert found.shape == (11, LAYERS, HEADS, PATCHES)
    np.testing.assert_allclose(found, expected(matrix, scenes.ids), **HALF)


@pytest.mark.parametrize("heads", MEANS)
def test_by_layer_the_heads_are_averaged_before_they_are_ranked(extracted, vision, scenes, heads):
    matrix = attention(vision, [scene.image for scene in scenes])
    expected = stationary(weighted(matrix, MEANS[heads](matrix, scenes.ids)))
    found = extracted(MethodConfig(name="tokenrank", heads=heads, alpha=0.99), "layers")
    assert found.shape == (11, LAYERS, 1, PATCHES)
    np.testing.assert_allclose(found, expected, **HALF)


def test_the_three_means_differ(extracted):
    found = [extracted(MethodConfig(name="tokenrank", heads=heads), "layers") for heads in MEANS]
    assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(found, [*found[1:], found[0]], strict=True))


@pytest.mark.parametrize("name", ["column_sum", "cls"])
def test_any_ranking_reads_the_mean_of_the_heads(extracted, vision, scenes, name):
    matrix = attention(vision, [scene.image for scene in scenes])
    mean = {"column_sum": cut(matrix).mean(2).mean(-2), "cls": matrix.mean(2)[..., 0, 1:]}[name]
    found = extracted(MethodConfig(name=name, heads="uniform"), "layers")
    np.testing.assert_allclose(found[:, :, 0], mean, **HALF)


def test_registers_are_in_the_chain_and_not_in_the_features():
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 3, 1 + 4 + 9, 14, dtype=torch.float64)
    read = extraction.PatchAttention(logits, 4, (3, 3))
    mean = extraction.mean_head(read, "uniform", seed=0)
    chain = cut(logits.softmax(-1).numpy()).mean(1)
    np.testing.assert_allclose(mean.chain.matrix()[:, 0], chain, rtol=1e-6)
    ranked = strategy(MethodConfig(name="tokenrank"), "layers", 0).maps(read, "blocks.0.attn", ["a", "b"])
    np.testing.assert_allclose(ranked[:, 0], stationary(chain)[:, 4:], atol=1e-5)


def test_heads_that_all_mix_at_once_count_alike():
    rank_one = torch.zeros(1, 2, 5, 5) + torch.arange(5.0)  # every row the same: lambda2 is 0
    mean = extraction.mean_head(extraction.PatchAttention(rank_one, 0, (2, 2)), "lambda2", seed=0)
    expected = rank_one[0, 0, 1:, 1:].softmax(-1)
    torch.testing.assert_close(mean.full[0, 0, 1:, 1:], expected)


@pytest.mark.parametrize("batch_size", [1, 3, 11, 64])
def test_another_batch_size_gives_the_same_features(extracted, vision, scenes, tmp_path, batch_size):
    spec = MethodConfig(name="tokenrank")
    each = strategy(spec, "maps", 0)
    sets = [FeatureSet(scenes, tmp_path / str(size), "x", {}, size, False) for size in (4, batch_size)]
    found = [part.features([each], lambda: vision)[each.name].read(range(11)).astype(float) for part in sets]
    np.testing.assert_allclose(*found, **HALF)


def test_strategies_together_come_from_one_forward_pass_and_are_what_each_is_alone(
    vision, scenes, tmp_path, monkeypatch
):
    strategies = [strategy(spec, "maps", 5) for spec, _ in MAPS.values()]
    passes = []
    monkeypatch.setattr(type(vision), "forward", lambda self, pixels: passes.append(len(pixels)) or self.run(pixels))
    together = FeatureSet(scenes, tmp_path / "all", "x", {}, 4, False).features(strategies, lambda: vision)
    assert passes == [1, 4, 4, 3]  # first how many maps each strategy gives, on a black image
    for each in strategies:
        alone = FeatureSet(scenes, tmp_path / each.name, "x", {}, 4, False).features([each], lambda: vision)
        assert np.array_equal(alone[each.name].read(range(11)), together[each.name].read(range(11)))
