"""Shards of one run merge to the same records, whatever their number, order and place."""

import itertools
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.records import RecordError, RunIdentity, Shard, open_shard, read_run
from attention_chains.records.encoding import canonical
from attention_chains.records.merge import merge


def record(index: int, value: float = 0.5) -> dict:
    return {"index": index, "id": f"s{index}", "ap": value / (index + 3)}


def write(folder, identity, shard: Shard, samples: int = 7) -> None:
    with open_shard(folder, identity, shard) as store:
        for index in filter(shard.owns, range(samples)):
            store.append(record(index))


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_two_shards_in_either_order_equal_one_run(tmp_path, identity, order):
    write(tmp_path / "one", identity, Shard())
    for index in order:
        write(tmp_path / "two", identity, Shard(index, 2))
    assert canonical(read_run(tmp_path / "two")) == canonical(read_run(tmp_path / "one"))


def test_shards_computed_in_two_places_merge_in_one_folder(tmp_path, identity):
    for index in range(2):
        write(tmp_path / f"machine{index}", identity, Shard(index, 2))
    shutil.copy(tmp_path / "machine1" / "shard-00001-of-00002.jsonl", tmp_path / "machine0")
    assert read_run(tmp_path / "machine0") == [record(index) for index in range(7)]


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_merge_does_not_depend_on_order_or_repetition(tmp_path_factory, order, repeated):
    shuffled = [record(index) for index in [*order, *repeated]]
    assert merge(shuffled, where=tmp_path_factory.getbasetemp()) == [record(index) for index in range(6)]


def test_a_run_is_read_beside_its_writer(tmp_path, identity):
    with open_shard(tmp_path, identity) as store:
        store.append(record(0))
        assert read_run(tmp_path) == [record(0)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(record(1), record(1, 0.75), id="other_content"),
        pytest.param(record(1), record(1) | {"id": "s2"}, id="two_ids_of_one_index"),
        pytest.param(record(1), record(2) | {"id": "s1"}, id="two_indices_of_one_id"),
        pytest.param(record(1, 0.0), record(1, -0.0), id="other_sign_of_zero"),
    ],
)
def test_records_that_differ_are_refused(tmp_path, first, second):
    names = rf"'{first['id']}' \(index 1\) and '{second['id']}' \(index {second['index']}\)"
    with pytest.raises(RecordError, match=f"different records for {names}: delete one"):
        merge([record(0), first, second], where=tmp_path)


def test_a_shard_of_another_run_is_refused(tmp_path, identity):
    other = RunIdentity(identity.config, identity.protocol, "other weights", identity.data)
    write(tmp_path / "one", identity, Shard(0, 2))
    write(tmp_path / "other", other, Shard(1, 2))
    shutil.copy(tmp_path / "other" / "shard-00001-of-00002.jsonl", tmp_path / "one")
    with pytest.raises(RecordError, match=r"shard-00001-of-00002\.jsonl is a shard of another run: move it out"):
        read_run(tmp_path / "one")
    with pytest.raises(RecordError, match="is a shard of another run"), open_shard(tmp_path / "one", identity):
        pass


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"Cannot read .*identity\.json \(No such file or directory\)"):
        read_run(tmp_path)
