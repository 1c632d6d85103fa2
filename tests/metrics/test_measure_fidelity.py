"""`measure` is protocol 1.2: its test vector, a literal reading of it in float64, and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

from attention_chains.metrics.segmentation import PROTOCOLS, measure

VECTOR_SCORE = torch.tensor([[0.9, 0.2, 0.4], [0.7, 0.1, 0.3]], dtype=torch.float64)
VECTOR_LABEL = np.array([[1, 0, 0], [1, 0, 1]], dtype=bool)
COUNTS = ("tn", "fp", "fn", "tp")

# The protocol written out, one pixel at a time: nothing but Pillow is shared with the code under test.


def resize_label(mask, size):
    image = Image.fromarray((np.asarray(mask) != 0).astype(np.uint8))
    return np.array(image.resize((size[1], size[0]), Image.NEAREST)) > 0


def enlarge_nearest(values, size):
    """out[y, x] = in[floor(y h / H), floor(x w / W)]."""
    (h, w), (height, width) = values.shape, size
    rows = [[values[y * h // height, x * w // width] for x in range(width)] for y in range(height)]
    return np.array(rows)


def enlarge_bilinear(values, size):
    """Pixel centres at (i + 1/2), the outermost entries repeated beyond the edge (align_corners=False)."""
    out = np.empty(size)
    for y in range(size[0]):
        top, down = _neighbours(y, values.shape[0], size[0])
        for x in range(size[1]):
            left, right = _neighbours(x, values.shape[1], size[1])
            out[y, x] = sum(a * b * values[i, j] for i, a in (top, down) for j, b in (left, right))
    return out


def _neighbours(position, length, new_length):
    source = max((position + 0.5) * length / new_length - 0.5, 0.0)
    low = min(math.floor(source), length - 1)
    return (low, 1 - (source - low)), (min(low + 1, length - 1), source - low)


def segment(score, protocol, size):
    """Binary prediction and min-max score, both (H, W) at `size`."""
    values = enlarge_bilinear(score, size) if protocol == "te" else score
    normal = (values - values.min()) / (values.max() - values.min())
    normal = np.round(normal * 2**40) / 2**40
    mean = math.fsum(normal.flat) / normal.size
    normal = normal.astype(np.float32)
    predicted = normal > np.float32(mean)
    if protocol == "te":
        return predicted, normal
    return enlarge_nearest(predicted, size), enlarge_nearest(normal, size)


def confusion(predicted, label):
    counts = {"tn": 0, "fp": 0, "fn": 0, "tp": 0}
    for p, y in zip(predicted.flat, label.flat, strict=True):
        counts[("t" if p == y else "f") + ("p" if p else "n")] += 1
    return counts


def average_precision(scores, labels):
    """Sum over distinct thresholds, from the highest, of precision times the recall gained."""
    total, area, recall = sum(labels), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [y for s, y in zip(scores, labels, strict=True) if s >= threshold]
        area += sum(chosen) / len(chosen) * (sum(chosen) / total - recall)
        recall = sum(chosen) / total
    return area


def literal_measure(score, mask, protocol, size):
    score = np.asarray(score, dtype=np.float64)
    label = resize_label(mask, size)
    predicted, normal = segment(score, protocol, size)
    both_scores = [*(1 - normal).flat, *normal.flat]
    return {
        **confusion(predicted, label),
        "ap": average_precision(both_scores, [*(~label).flat, *label.flat]),
        "fg_ap": average_precision([*normal.flat], [*label.flat]) if label.any() else 0.0,
    }


@st.composite
def maps_and_masks(draw):
    """A small map with or without ties, a mask of its own size, and a size to compare at; none square."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    levels = draw(st.sampled_from([2, 5, 2**16]))
    cells = st.lists(st.integers(0, levels), min_size=height * width, max_size=height * width, unique=levels > 100)
    score = np.array(draw(cells), dtype=np.float64).reshape(height, width) / levels
    if score.min() == score.max():
        score[0, 0] += 0.5
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random((draw(st.integers(1, 12)), draw(st.integers(1, 12)))) < draw(st.sampled_from([0.2, 0.5, 0.9]))
    return score, mask, (draw(st.integers(2, 14)), draw(st.integers(2, 14)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_vector_of_the_protocol_sheet(protocol):
    measured = measure(VECTOR_SCORE, VECTOR_LABEL, protocol, size=(2, 3))
    assert [measured[count] for count in COUNTS] == [3, 0, 1, 2]  # mask [[1, 0, 0], [1, 0, 0]]
    assert measured["ap"] == pytest.approx(0.88333, abs=5e-6)
    assert measured["fg_ap"] == pytest.approx(0.91667, abs=5e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(derandomize=True, deadline=None, max_examples=80)
@given(case=maps_and_masks())
def test_equals_the_protocol_written_out(protocol, case):
    score, mask, size = case
    if protocol == "te":  # never shrinks a map
        size = tuple(np.maximum(size, score.shape).tolist())
    measured = measure(torch.tensor(score), mask, protocol, size)
    assert measured == pytest.approx(literal_measure(score, mask, protocol, size), abs=1e-6)
    assert [type(measured[count]) for count in COUNTS] == [int] * 4


@pytest.mark.parametrize(("side", "protocol"), [(64, "ca"), (32, "ca"), (14, "te")])
def test_equals_scikit_learn_at_the_published_size(side, protocol):
    rng = np.random.default_rng(0)
    score = rng.random((side, side))
    mask = np.zeros((375, 500), dtype=bool)  # ImageNet's most frequent size
    mask[100:300, 50:333] = True
    measured = measure(torch.tensor(score), mask, protocol)
    label = resize_label(mask, (224, 224)).flatten()
    _, normal = segment(score, protocol, (224, 224))
    normal = normal.flatten()
    two_sided = average_precision_score(np.r_[~label, label], np.r_[1 - normal, normal])
    # float32 rounding of bilinear values may order a few of 50 176 pixels differently in the two computations
    tolerance = 1e-12 if protocol == "ca" else 1e-6
    assert measured["ap"] == pytest.approx(two_sided, abs=tolerance)
    assert measured["fg_ap"] == pytest.approx(average_precision_score(label, normal), abs=tolerance)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_map_says_nothing(protocol, value, dtype):
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, :3] = True
    measured = measure(torch.full((7, 5), value, dtype=dtype), mask, protocol, size=10)
    assert measured == {"tn": 70, "fp": 0, "fn": 30, "tp": 0, "ap": 0.5, "fg_ap": 0.3}


def test_te_scores_a_map_with_nan_as_constant():
    score = torch.rand(4, 4)
    score[1, 2] = torch.nan
    mask = np.eye(8, dtype=bool)
    assert measure(score, mask, "te", size=8) == measure(torch.zeros(4, 4), mask, "te", size=8)


def test_scores_equal_to_the_mean_are_background():
    measured = measure(torch.tensor([[0.0, 0.5, 1.0]]), np.ones((1, 3), dtype=bool), "ca", size=(1, 3))
    assert (measured["tp"], measured["fn"]) == (1, 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_mask_as_its_own_map_is_perfect(protocol):
    mask = np.zeros((12, 12), dtype=bool)
    mask[2:7, 3:11] = True
    measured = measure(torch.tensor(mask, dtype=torch.float32), mask, protocol, size=12)
    assert measured == pytest.approx({"tn": 104, "fp": 0, "fn": 0, "tp": 40, "ap": 1, "fg_ap": 1})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(derandomize=True, deadline=None, max_examples=50)
@given(case=maps_and_masks(), shift=st.integers(-8, 8), power=st.integers(-12, 12))
def test_scale_and_offset_of_a_map_do_not_matter(protocol, case, shift, power):
    score, mask, size = case
    moved = (torch.tensor(score) + shift) * 2.0**power
    assert measure(moved, mask, protocol, size) == pytest.approx(
        measure(torch.tensor(score), mask, protocol, size), abs=1e-6
    )


@pytest.mark.parametrize("side", [64, 320, 448, 512, 640])
def test_labels_are_resized_as_pillow_does(side):
    rows = (np.arange(side) * 37 % 11 < 5)[:, None] & np.ones((1, 224), dtype=bool)
    label = resize_label(rows, (224, 224))
    measured = measure(torch.tensor(label.astype(np.float32)), rows, "ca")
    assert (measured["fp"], measured["fn"]) == (0, 0)
