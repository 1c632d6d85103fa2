"""A sample that cannot be segmented or measured is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from attention_chains.data.errors import DataError
from attention_chains.data.sample import Sample

GOOD = {
    "id": "scene-7",
    "image": np.zeros((4, 6, 3), np.uint8),
    "mask": np.eye(4, 6, dtype=bool),
    "word": "red cat",
    "prompt": "a photo of a red cat.",
}
BAD = {
    "the image is float64, not uint8": {"image": np.zeros((4, 6, 3))},
    "the image is NoneType, not uint8": {"image": None},
    "the image has shape (4, 6)": {"image": np.zeros((4, 6), np.uint8)},
    "the image has shape (4, 6, 4)": {"image": np.zeros((4, 6, 4), np.uint8)},
    "the image has shape (0, 6, 3)": {"image": np.zeros((0, 6, 3), np.uint8)},
    "the mask is uint8, not bool": {"mask": np.eye(4, 6, dtype=np.uint8)},
    "the mask has shape (6, 4), the image (4, 6)": {"mask": np.eye(6, 4, dtype=bool)},
    "the mask is empty": {"mask": np.zeros((4, 6), bool)},
    "the word 'ed' is not in the prompt": {"word": "ed"},
    "the word 're' is not in the prompt": {"word": "re"},
    "the word 'dog' is not in the prompt": {"word": "dog"},
}


@pytest.mark.parametrize("change", [{}, {"word": ""}, {"word": "cat"}, {"mask": np.ones((4, 6), bool)}])
def test_a_good_sample_is_kept_as_it_is(change):
    fields = GOOD | change
    sample = Sample(**fields)
    assert all(getattr(sample, name) is value for name, value in fields.items())
    assert sample.meta == {}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_sample_is_refused_by_name(problem):
    with pytest.raises(DataError) as refused:
        Sample(**GOOD | BAD[problem])
    assert str(refused.value).startswith(f"Sample 'scene-7': {problem}")
    assert "data.skip_bad" in str(refused.value)
