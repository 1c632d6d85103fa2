"""Vectors come back from a record bit for bit."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.records import RecordError
from attention_chains.records.encoding import decode, encode, plain
from attention_chains.records.vectors import pack, unpack


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30))
def test_every_bit_comes_back_also_through_a_line_of_json(values):
    vector = torch.tensor(values, dtype=torch.float32)
    back = unpack(decode(encode(plain(pack(vector), "record"))))
    assert back.dtype == np.float32 and back.tobytes() == vector.numpy().tobytes()


def test_the_text_is_base64_of_little_endian_numbers_on_any_machine():
    assert base64.b64decode(pack(torch.tensor([1.0, -2.5]))) == struct.pack("<2f", 1.0, -2.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_rounded_to_fp32(dtype):
    vector = torch.tensor([0.1, 3.0], dtype=dtype)
    assert np.array_equal(unpack(pack(vector)), vector.float().numpy())


def test_a_view_is_packed_in_its_own_order_and_the_copy_can_be_written_to():
    columns = torch.arange(6.0).view(2, 3)
    back = unpack(pack(columns[:, 1]))
    assert back.tolist() == [1, 4]
    back[0] = 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_what_is_not_finite_in_fp32_is_refused(value):
    with pytest.raises(RecordError, match=r"Entry 1 of a vector is (nan|inf): .* finite numbers only"):
        pack(torch.tensor([0.0, value], dtype=torch.float64))


@pytest.mark.parametrize("text", ["AAA", "AAAAA===", "?!", "AAAA"])
def test_another_text_is_refused(text):
    with pytest.raises(RecordError, match="vector cannot be read"):
        unpack(text)
