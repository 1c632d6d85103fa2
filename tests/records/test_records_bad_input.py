"""What cannot be kept, read or trusted is one sentence: what, where, what to do."""

import decimal
import errno
import math
import os

import pytest

from attention_chains.records import WHOLE_RUN, RecordError, RunIdentity, Shard, open_shard, read_run

WHOLE = "shard-00000-of-00001.jsonl"
NOBODY = 65534


def record(index: int, **fields) -> dict:
    return {"index": index, "id": f"s{index}", **fields}


def visit(folder, identity: RunIdentity, *records: dict, shard: Shard = WHOLE_RUN) -> None:
    with open_shard(folder, identity, shard) as store:
        for item in records:
            store.append(item)


@pytest.fixture
def read_only_folder(tmp_path):
    """Root writes everywhere, so that root is nobody for the test."""
    user = os.geteuid()
    tmp_path.chmod(0o500)
    if user == 0:
        os.seteuid(NOBODY)
    yield tmp_path
    os.seteuid(user)
    tmp_path.chmod(0o700)


def test_a_full_disk_is_a_sentence_and_the_finished_samples_are_resumed(tmp_path, start_writer):
    full = start_writer(tmp_path / "full", 40, "--file-limit", 40_000)
    said, sentence = full.communicate()
    kept = said.count("kept")
    assert full.returncode == 1
    assert sentence.startswith(f"Cannot write {tmp_path / 'full' / WHOLE} (File too large): make room and run the same")
    assert len(sentence.splitlines()) == 1
    assert 0 < kept == len(read_run(tmp_path / "full")) < 40
    said, _ = start_writer(tmp_path / "full", 40).communicate()
    assert said.count("computed") == 40 - kept
    assert start_writer(tmp_path / "undisturbed", 40).wait() == 0
    assert (tmp_path / "full" / WHOLE).read_bytes() == (tmp_path / "undisturbed" / WHOLE).read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_sync_that_fails_leaves_the_shard_as_it_was_and_closes_it(tmp_path, identity, monkeypatch, code):
    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    with open_shard(tmp_path, identity) as store:
        store.append(record(0))
        before = (tmp_path / WHOLE).read_bytes()
        with monkeypatch.context() as patch, pytest.raises(RecordError, match=os.strerror(code)):
            patch.setattr(os, "fsync", fsync)
            store.append(record(1))
        with pytest.raises(RecordError, match="is closed: open the shard again"):
            store.append(record(1))
    assert (tmp_path / WHOLE).read_bytes() == before


def test_a_disk_that_is_full_from_the_start_is_a_sentence(tmp_path, start_writer):
    process = start_writer(tmp_path / "run", 1, "--file-limit", 1)
    _, sentence = process.communicate()
    assert process.returncode == 1
    assert sentence.startswith(f"Cannot write {tmp_path / 'run'} (File too large): make room")
    assert os.listdir(tmp_path / "run") == []


def test_a_file_where_the_results_folder_should_be(tmp_path, identity):
    (tmp_path / "results").write_text("")
    with pytest.raises(RecordError, match=r"Cannot write .*/runs \(Not a directory\): choose .*\(out=<folder>\)"):
        visit(tmp_path / "results" / "runs", identity)


def test_a_results_folder_that_takes_no_files(identity):
    with pytest.raises(RecordError, match=r"Cannot write /proc/.*: choose a results folder"):
        visit("/proc/run", identity)


def test_a_read_only_results_folder(read_only_folder, identity):
    with pytest.raises(RecordError, match=r"Cannot write .*run \(Permission denied\): choose a results folder"):
        visit(read_only_folder / "run", identity)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b'{"id":"s1"}', b'{"id":"s1","index":1,"ap":NaN}', b"\xff\xfe", b"\0" * 9]
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_corrupt_line_before_the_last_is_named(tmp_path, identity, line, number):
    visit(tmp_path, identity, record(0), record(1), record(2))
    lines = (tmp_path / WHOLE).read_bytes().split(b"\n")
    lines[number - 1] = line
    (tmp_path / WHOLE).write_bytes(b"\n".join(lines))
    sentence = rf"{WHOLE}, line {number}, is corrupt: restore the file from a copy, or delete"
    with pytest.raises(RecordError, match=sentence):
        read_run(tmp_path)
    with pytest.raises(RecordError, match=sentence):
        visit(tmp_path, identity)


def test_deleting_the_corrupt_line_has_its_sample_computed_again(tmp_path, identity):
    visit(tmp_path, identity, record(0), record(1), record(2))
    lines = (tmp_path / WHOLE).read_bytes().splitlines(keepends=True)
    (tmp_path / WHOLE).write_bytes(b"".join(lines[:2] + lines[3:]))
    with open_shard(tmp_path, identity) as store:
        assert store.finished == {"s0", "s2"}
        store.append(record(1))
    assert read_run(tmp_path) == [record(0), record(1), record(2)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_the_name_of_its_field(tmp_path, identity, value):
    with pytest.raises(RecordError, match=rf"Record 's0'\.stats\.outgoing\[1\] is {value}: .* finite numbers only"):
        visit(tmp_path, identity, record(0, stats={"outgoing": [0.5, value]}))


@pytest.mark.parametrize("value", [decimal.Decimal("0.1"), {1, 2}, b"bytes", 1j, object()])
def test_a_value_that_would_not_read_back_is_refused_by_the_name_of_its_field(tmp_path, identity, value):
    with pytest.raises(RecordError, match=r"Record 's0'\.ap is of .*: convert it"):
        visit(tmp_path, identity, record(0, ap=value))


def test_a_field_that_is_not_named_by_a_string_is_refused(tmp_path, identity):
    with pytest.raises(RecordError, match=r"Record 's0'\.stats has the key 3 of type int: name every field"):
        visit(tmp_path, identity, record(0, stats={3: 0.5}))


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"id": "a"},
        {"index": 0},
        {"id": 1, "index": 0},
        {"id": "a", "index": -2},
        {"id": "a", "index": True},
        {"id": "a", "index": 1.0},
    ],
)
def test_a_record_without_id_and_index_is_refused(tmp_path, identity, bad):
    with pytest.raises(RecordError, match="give a string and an integer from 0"):
        visit(tmp_path, identity, bad)


def test_a_refused_record_leaves_the_store_open(tmp_path, identity):
    with open_shard(tmp_path, identity) as store:
        with pytest.raises(RecordError, match="finite"):
            store.append(record(0, ap=math.nan))
        store.append(record(0, ap=0.5))
    assert read_run(tmp_path) == [record(0, ap=0.5)]


def test_a_sample_of_another_shard_is_refused(tmp_path, identity):
    with pytest.raises(RecordError, match="'s2' with index 2 is not of shard-00001-of-00002"):
        visit(tmp_path, identity, record(2), shard=Shard(1, 2))


def test_a_finished_sample_is_not_kept_twice(tmp_path, identity):
    with pytest.raises(RecordError, match=r"'s0' is in the run already: skip .* store\.finished"):
        visit(tmp_path, identity, record(0), record(0))


def test_a_closed_store_takes_no_record(tmp_path, identity):
    with open_shard(tmp_path, identity) as store:
        pass
    with pytest.raises(RecordError, match="is closed"):
        store.append(record(0))


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(index, count):
    with pytest.raises(RecordError, match=f"Shard {index} of {count} does not exist"):
        Shard(index, count)


def test_the_folder_of_another_run_is_refused(tmp_path, identity):
    visit(tmp_path, identity)
    other = RunIdentity({"method": {"n": 3}}, identity.protocol, "other", identity.data)
    with pytest.raises(RecordError, match=r"holds another run \(other config, weights\): choose"):
        visit(tmp_path, other)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"digest": "a", "config": {}, "protocol": "", "weights": "", "data": ""}']
)
def test_an_identity_file_that_was_changed_is_refused(tmp_path, identity, content):
    visit(tmp_path, identity, record(0))
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(RecordError, match=r"identity\.json was changed after it was written: restore it"):
        read_run(tmp_path)
