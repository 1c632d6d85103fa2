"""An image that cannot be classified is refused by name; so is a draw without a seed."""

from __future__ import annotations

import numpy as np
import pytest

from attention_chains.data.errors import DataError
from attention_chains.data.labelled import Labelled, draw

GOOD = {"id": "scene-7", "image": np.zeros((4, 6, 3), np.uint8), "label": 3, "class_name": "three"}
BAD = {
    "the image is float64, not uint8": {"image": np.zeros((4, 6, 3))},
    "the image is NoneType, not uint8": {"image": None},
    "the image has shape (4, 6)": {"image": np.zeros((4, 6), np.uint8)},
    "the image has shape (4, 6, 1)": {"image": np.zeros((4, 6, 1), np.uint8)},
    "the image has shape (4, 0, 3)": {"image": np.zeros((4, 0, 3), np.uint8)},
    "the label is -1, not": {"label": -1},
    "the label is None, not": {"label": None},
    "the label is 3.0, not": {"label": 3.0},
    "the label is True, not": {"label": True},
    "the class name is ''": {"class_name": ""},
    "the class name is None": {"class_name": None},
}


@pytest.mark.parametrize("change", [{}, {"label": 0}, {"image": np.ones((1, 1, 3), np.uint8)}])
def test_a_good_sample_is_kept_as_it_is(change):
    fields = GOOD | change
    sample = Labelled(**fields)
    assert all(getattr(sample, name) is value for name, value in fields.items())


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_sample_is_refused_by_name(problem):
    with pytest.raises(DataError) as refused:
        Labelled(**GOOD | BAD[problem])
    assert str(refused.value).startswith(f"Sample 'scene-7': {problem}")
    assert "data.skip_bad" in str(refused.value)


@pytest.mark.parametrize("seed", [None, -1, 2**32])
def test_a_draw_without_a_usable_seed_is_refused(seed):
    with pytest.raises(DataError, match=f"data.seed is {seed}: 3 of 10 images are drawn by it"):
        draw(10, 3, seed)
