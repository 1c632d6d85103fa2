"""A record reads back exactly as it was appended, bit for bit."""

import math
import struct
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attention_chains.records import open_shard, read_run
from attention_chains.records.encoding import decode, encode, plain

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FINITE | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def identical(first, second) -> bool:
    """Equal in content and in type, and -0.0 is not 0.0."""
    return repr(first) == repr(second)


@given(FINITE)
@example(-0.0)
@example(5e-324)
@example(sys.float_info.max)
@example(0.1 + 0.2)
def test_floats_keep_every_bit(value):
    back = decode(encode(plain({"ap": value}, "record")))["ap"]
    assert struct.pack("d", back) == struct.pack("d", value)


@given(VALUES)
def test_any_value_of_json_reads_back_identical_from_one_line(value):
    line = encode(plain(value, "record"))
    assert "\n" not in line
    assert identical(decode(line), value)


def test_a_run_reads_back_what_was_appended(tmp_path, identity):
    numbers = [math.pi / 3**power for power in range(-300, 300)]
    second = {"index": 1, "id": 'b\n"ü\u2028', "x": numbers}
    first = {"index": 0, "id": "a", "x": [-0.0, 2**64, True, None]}
    with open_shard(tmp_path, identity) as store:
        store.append(second)
        store.append(first)
    assert identical(read_run(tmp_path), [first, second])


def test_subclasses_are_kept_as_the_numbers_they_are(tmp_path, identity):
    numpy = pytest.importorskip("numpy")
    with open_shard(tmp_path, identity) as store:
        store.append({"index": 0, "id": "a", "ap": numpy.float64(0.1), "shape": (3, 4)})
    assert identical(read_run(tmp_path), [{"index": 0, "id": "a", "ap": 0.1, "shape": [3, 4]}])


def test_records_need_the_standard_library_alone():
    program = "import sys, attention_chains.records; assert not {'torch', 'numpy', 'omegaconf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})
