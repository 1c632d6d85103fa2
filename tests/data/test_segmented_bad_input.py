"""An image whose labels cannot be measured is refused in one sentence, before anything is run on it."""

from __future__ import annotations

import numpy as np
import pytest

from attention_chains.data.errors import DataError
from attention_chains.data.segmented import Segmented

IMAGE = np.zeros((4, 6, 3), np.uint8)
LABELS = np.zeros((4, 6), np.int64)


@pytest.mark.parametrize(
    ("image", "labels", "problem"),
    [
        (IMAGE.astype(np.float32), LABELS, "the image is float32, not uint8"),
        (IMAGE[..., 0], LABELS, "the image has shape (4, 6), not (H, W, 3)"),
        (IMAGE, LABELS.astype(np.uint8), "the labels are uint8, not int64"),
        (IMAGE, LABELS.tolist(), "the labels are list, not int64"),
        (IMAGE, LABELS.T, "the labels have shape (6, 4), the image (4, 6) (height, width)"),
        (IMAGE, LABELS[None], "the labels have shape (1, 4, 6), the image (4, 6) (height, width)"),
        (IMAGE, LABELS - 2, "a label is -2, neither a class nor -1 (ignored)"),
    ],
)
def test_what_cannot_be_measured_is_named(image, labels, problem):
    with pytest.raises(DataError) as refused:
        Segmented("scene-7", image, labels)
    assert str(refused.value).startswith(f"Sample 'scene-7': {problem};") and "data.skip_bad" in str(refused.value)


def test_an_image_may_be_ignored_as_a_whole():
    assert (Segmented("void", IMAGE, LABELS - 1).labels == -1).all()
