"""A run that is stopped in any way goes on by the same command, to the same content, and computes nothing twice."""

import logging
import os
import random
import shutil
import signal
import time
from pathlib import Path

from attention_chains.records import Shard, open_shard, read_run
from attention_chains.records.encoding import canonical

WHOLE = "shard-00000-of-00001.jsonl"


def record(index: int) -> dict:
    return {"index": index, "id": f"s{index}", "stats": {"outgoing": {"ap": index / 7}}}


def indices(lines: str, word: str) -> list[int]:
    return [int(line.split()[1]) for line in lines.splitlines() if line.startswith(word)]


def kill_soon(process, draw: random.Random) -> str:
    """Kill the writer within some milliseconds of one of its next samples; gives what it said until then."""
    said = ""
    for _ in range(draw.randrange(1, 6)):
        said += process.stdout.readline()
    time.sleep(draw.uniform(0, 0.006))
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read()
    assert process.wait() == -signal.SIGKILL
    return said


def test_twenty_kills_leave_the_same_content_and_recompute_nothing_finished(tmp_path, start_writer):
    assert start_writer(tmp_path / "undisturbed", 200).wait() == 0
    command = (tmp_path / "killed", 200, "--nap", 0.005)
    draw, computed, kept = random.Random(0), [], set()
    for _ in range(20):
        said = kill_soon(start_writer(*command), draw)
        finished = {item["index"] for item in read_run(tmp_path / "killed")}
        assert kept | set(indices(said, "kept")) <= finished
        assert kept.isdisjoint(indices(said, "computed"))
        computed, kept = computed + indices(said, "computed"), finished
    assert len(kept) < 200
    last, _ = start_writer(*command).communicate()
    assert kept.isdisjoint(indices(last, "computed"))
    assert len(computed + indices(last, "computed")) <= 200 + 20
    assert (tmp_path / "killed" / WHOLE).read_bytes() == (tmp_path / "undisturbed" / WHOLE).read_bytes()


def test_ctrl_c_keeps_the_finished_samples(tmp_path, start_writer):
    process = start_writer(tmp_path, 200, "--nap", 0.005)
    while process.stdout.readline() != "kept 3\n":
        pass
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130
    assert {item["index"] for item in read_run(tmp_path)} == {0, 1, 2, 3, *indices(said, "kept")}
    said, _ = start_writer(tmp_path, 200).communicate()
    assert {0, 1, 2, 3}.isdisjoint(indices(said, "computed"))


def test_a_shard_cut_at_any_byte_is_resumed_to_the_same_bytes(tmp_path, identity, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a thousand syncs, with no power loss to guard against
    with open_shard(tmp_path / "whole", identity) as store:
        for index in range(2):
            store.append(record(index))
    content = (tmp_path / "whole" / WHOLE).read_bytes()
    for length in range(len(content) + 1):
        folder = tmp_path / "cut"
        shutil.copytree(tmp_path / "whole", folder)
        os.truncate(folder / WHOLE, length)
        with open_shard(folder, identity) as store:
            assert len(store.finished) == max(content[:length].count(b"\n") - 1, 0)  # less the header
            for index in range(len(store.finished), 2):
                store.append(record(index))
        assert (folder / WHOLE).read_bytes() == content
        shutil.rmtree(folder)


def test_a_torn_last_line_is_noticed_and_dropped(tmp_path, identity, caplog):
    with open_shard(tmp_path, identity) as store:
        store.append(record(0))
    with (tmp_path / WHOLE).open("ab") as file:
        file.write(b'{"index":1,"id":"s1","sta')
    assert read_run(tmp_path) == [record(0)]
    with caplog.at_level(logging.WARNING), open_shard(tmp_path, identity) as store:
        assert store.finished == {"s0"}
    assert f"{tmp_path / WHOLE}: the last line is unfinished and dropped" in caplog.text


def test_a_last_line_that_lost_its_middle_is_dropped(tmp_path, identity):
    with open_shard(tmp_path, identity) as store:
        store.append(record(0))
    with (tmp_path / WHOLE).open("ab") as file:
        file.write(b'{"index":1,' + b"\0" * 64 + b"}}\n")
    with open_shard(tmp_path, identity) as store:
        assert store.finished == {"s0"}
        store.append(record(1))
    assert read_run(tmp_path) == [record(0), record(1)]


def test_a_record_is_on_the_disk_when_append_returns(tmp_path, identity, monkeypatch):
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().read_bytes())

    with open_shard(tmp_path, identity) as store:
        monkeypatch.setattr(os, "fsync", fsync)
        store.append(record(0))
    assert synced == [(tmp_path / WHOLE).read_bytes()]


def test_an_interrupted_append_leaves_no_part_of_a_line(tmp_path, identity, monkeypatch):
    with open_shard(tmp_path, identity) as store:
        store.append(record(0))
        before = (tmp_path / WHOLE).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _interrupt)
            try:
                store.append(record(1))
            except KeyboardInterrupt:
                assert store.finished == {"s0"}
        assert (tmp_path / WHOLE).read_bytes() == before
        store.append(record(1))
    assert read_run(tmp_path) == [record(0), record(1)]


def _interrupt(_: int) -> None:
    raise KeyboardInterrupt


def test_a_run_may_be_resumed_with_another_number_of_shards(tmp_path, identity):
    with open_shard(tmp_path, identity) as store:
        for index in (0, 1, 2):
            store.append(record(index))
    for shard in (Shard(1, 2), Shard(0, 2)):
        with open_shard(tmp_path, identity, shard) as store:
            assert {"s0", "s1", "s2"} <= store.finished
            for index in filter(shard.owns, range(3, 8)):
                store.append(record(index))
    assert canonical(read_run(tmp_path)) == canonical([record(index) for index in range(8)])
