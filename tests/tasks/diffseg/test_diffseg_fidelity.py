"""Grouping is the official procedure's: beside a literal float64 reference, and the values of protocol 3."""

from __future__ import annotations

import literal_diffseg as literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from attention_chains.methods import MethodError
from attention_chains.methods.grouping import Merging, label_map, merged, refined, symmetric_kl

SMALL = st.builds(
    lambda maps, pixels, seed, sharpness: (
        sharpness * torch.randn(maps, pixels, generator=torch.Generator().manual_seed(seed)).double()
    ).softmax(-1),
    st.integers(1, 7),
    st.integers(1, 30),
    st.integers(0, 10**6),
    st.floats(0.0, 4.0),
)


def as_tensor(matrix: torch.Tensor, side: int) -> np.ndarray:
    return matrix.view(side, side, side, side).numpy()


# Distance


def test_the_distance_of_protocol_3_2():
    x, uniform = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.full((1, 4), 0.25)
    assert symmetric_kl(x, uniform).item() == pytest.approx(0.114109, abs=5e-7)


@given(SMALL)
def test_distances_are_those_of_every_pair_pixel_by_pixel(maps):
    expected = [[literal.symmetric_kl(x, y) for y in maps.numpy()] for x in maps.numpy()]
    assert symmetric_kl(maps, maps).numpy() == pytest.approx(np.array(expected), abs=1e-12)
    assert symmetric_kl(maps.float(), maps.float()).numpy() == pytest.approx(np.array(expected), abs=2e-5)


def test_distances_of_a_batch_in_pieces_are_those_of_each_element(tensor, monkeypatch):
    maps = torch.stack([tensor(6, seed) for seed in (0, 1)])
    monkeypatch.setattr("attention_chains.methods.grouping.divergence.BLOCK", 500)  # pieces of six maps
    together = symmetric_kl(maps[:, :5], maps)
    assert together.shape == (2, 5, 36)
    for one, found in zip(maps, together, strict=True):
        torch.testing.assert_close(found, symmetric_kl(one[:5], one), atol=1e-14, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_map_with_a_zero_has_no_distance_to_any_map_nor_to_itself(precision):
    maps = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    nowhere = symmetric_kl(maps, maps, precision).isnan()
    assert nowhere.tolist() == [[True, True, True], [True, False, True], [True, True, True]]


@given(
    st.lists(st.sampled_from([2.0**-23, 2.0**-24, 2.1**-24, 2.0**-25, 2.0**-26, 1e-3, 1e-9]), min_size=2, max_size=6)
)
def test_in_float16_the_distance_is_missing_exactly_where_the_official_arithmetic_gives_nan(entries):
    rows = [[entry, 0.4, 0.6 - entry] for entry in entries]
    found = symmetric_kl(torch.tensor(rows), torch.tensor(rows), "float16")
    expected = np.array([[literal.half_symmetric_kl(np.float32(x), np.float32(y)) for y in rows] for x in rows])
    assert np.isnan(expected).any() == any(entry <= 2.0**-25 for entry in entries)
    assert (found.isnan().numpy() == np.isnan(expected)).all()
    assert found.nan_to_num(0).numpy() == pytest.approx(np.nan_to_num(expected), abs=2e-3)


def test_in_float16_distances_are_the_official_ones_to_its_rounding(tensor):
    maps = tensor(12, sharpness=2.2)[:40]
    expected = np.array([[literal.half_symmetric_kl(x, y) for y in maps.numpy()] for x in maps.numpy()])
    found = symmetric_kl(maps.float(), maps.float(), "float16").numpy()
    assert expected.max() > 1.5 and found == pytest.approx(expected, abs=6e-3)


def test_another_precision_is_refused():
    with pytest.raises(MethodError, match="The precision is 'float8': choose one of float32, float16"):
        symmetric_kl(torch.ones(1, 1), torch.ones(1, 1), "float8")


# Merging and labels


@pytest.mark.parametrize(("side", "seed", "tau", "iterations"), [(16, 0, 1.1, 3), (6, 1, 0.5, 1), (6, 2, 0.8, 2)])
def test_merging_and_labels_are_those_of_the_literal_reference(tensor, side, seed, tau, iterations):
    matrix, rows = tensor(side, seed), range(side // 4, side, side // 3)
    anchors = [row * side + column for row in rows for column in rows]
    found = merged(matrix, torch.tensor(anchors), Merging(tau, iterations))
    expected = literal.merged(as_tensor(matrix, side), anchors, tau, iterations)
    assert len(expected) > 1  # there is something to tell apart
    assert found.view(-1, side, side).numpy() == pytest.approx(np.stack(expected), abs=1e-14)
    single = merged(matrix.float(), torch.tensor(anchors), Merging(tau, iterations))
    assert single.view(-1, side, side).numpy() == pytest.approx(np.stack(expected), abs=1e-6)
    labels = label_map(found, (side, side), (2 * side, 2 * side))
    assert (labels.numpy() == literal.label_map(expected, 2 * side, 2 * side)).all()


@settings(max_examples=15)
@given(
    st.integers(2, 4),
    st.integers(0, 10**6),
    st.floats(0.2, 4.0),
    st.floats(0.01, 3.0),
    st.integers(1, 4),
    st.sets(st.integers(0, 15), max_size=3),
)
def test_merging_any_tensor_is_the_literal_reference_zeros_included(tensor, side, seed, sharpness, tau, rounds, zeroed):
    matrix = tensor(side, seed, sharpness)
    for token in zeroed:
        matrix[token % side**2, 0] = 0
    anchors = torch.randperm(side**2, generator=torch.Generator().manual_seed(seed)).tolist()[: side + 2]
    found = merged(matrix, torch.tensor(anchors), Merging(tau, rounds))
    expected = literal.merged(as_tensor(matrix, side), anchors, tau, rounds)
    expected = [one for one in expected if not np.isnan(one).any()]  # what one round leaves of an anchor with a zero
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.view(side, side).numpy() == pytest.approx(other, abs=1e-12)


def test_in_float16_an_anchor_with_an_underflow_finds_nothing_and_is_found_by_none(tensor):
    matrix = tensor(4)
    matrix[5, 3] = 2.0**-26
    matrix /= matrix.sum(-1, keepdim=True)
    anchors = [0, 5, 10]
    for precision, distance in (("float32", literal.symmetric_kl), ("float16", literal.half_symmetric_kl)):
        expected = literal.merged(as_tensor(matrix, 4), anchors, 100.0, 2, distance)
        found = merged(matrix, torch.tensor(anchors), Merging(100.0, 2, precision))
        assert found.numpy() == pytest.approx(np.stack(expected).reshape(len(expected), -1), abs=1e-12)
    others = torch.cat([matrix[:5], matrix[6:]]).mean(0)  # all are near at tau = 100, but for the one
    assert merged(matrix, torch.tensor(anchors), Merging(100.0, 3, "float16"))[0].numpy() == pytest.approx(
        others.numpy()
    )


def test_where_no_anchor_finds_anything_the_image_is_one_segment(tensor):
    matrix = tensor(4)
    matrix[:, 0] = 0
    found = merged(matrix, torch.arange(16), Merging())
    assert found.shape == (0, 16) and refined(matrix, found).shape == (0, 16)
    assert label_map(found, (4, 4), (8, 8)).unique().tolist() == [0]


def test_the_order_of_the_anchors_decides_what_is_merged(tensor):
    matrix, anchors = tensor(12, 3, 2.4), torch.arange(0, 144, 7)
    labels = []
    for order in (anchors, anchors.flip(0)):
        labels.append(label_map(merged(matrix, order, Merging(0.9)), (12, 12), (12, 12)))
        expected = literal.merged(as_tensor(matrix, 12), order.tolist(), 0.9, 3)
        assert (labels[-1].numpy() == literal.label_map(expected, 12, 12)).all()
    assert adjusted_rand_score(*(each.flatten() for each in labels)) < 0.999


def test_of_equal_proposals_the_first_takes_the_pixel():
    equal = torch.full((3, 4), 0.25)
    assert label_map(equal, (2, 2), (5, 3)).unique().tolist() == [0]


def test_one_anchor_alone_is_one_segment(tensor):
    assert label_map(merged(tensor(4), torch.tensor([3])), (4, 4), (4, 4)).unique().tolist() == [0]


# Refinement


def test_refinement_is_lloyds_algorithm_from_the_proposals(tensor):
    matrix = tensor(8, 1, 2.2)
    proposals = merged(matrix, torch.arange(0, 64, 5), Merging(0.8))
    assert len(proposals) > 2
    points, centres = matrix.numpy(), proposals.numpy().copy()
    for _ in range(300):
        nearest = np.array([np.argmin([((point - centre) ** 2).sum() for centre in centres]) for point in points])
        centres = np.stack([points[nearest == index].mean(0) for index in range(len(centres))])
    assert refined(matrix, proposals).numpy() == pytest.approx(centres, abs=1e-12)
    assert refined(matrix.float(), proposals.float()).dtype == torch.float32
    assert not np.allclose(proposals.numpy(), centres)
