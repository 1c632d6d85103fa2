"""One process per shard; the lock dies with its process."""

import os
import signal
import socket

import pytest

from attention_chains.records import RecordError, Shard, open_shard


def test_a_second_process_on_a_shard_is_refused_and_told_who_has_it(tmp_path, start_writer):
    holder = start_writer(tmp_path, 1, "--hold")
    while not holder.stdout.readline().startswith("holding"):
        pass
    second = start_writer(tmp_path, 1)
    _, sentence = second.communicate()
    assert second.returncode == 1
    assert f"is being written by process {holder.pid} on {socket.gethostname()}: wait until it is done" in sentence
    assert "Traceback" not in sentence
    holder.kill()
    holder.wait()
    assert start_writer(tmp_path, 1).wait() == 0


def test_a_forked_worker_that_outlives_its_parent_does_not_keep_the_lock(tmp_path, start_writer):
    holder = start_writer(tmp_path, 1, "--fork", "--hold")
    worker = int(holder.stdout.readline().split()[1])
    while not holder.stdout.readline().startswith("holding"):
        pass
    holder.kill()
    holder.wait()
    os.kill(worker, 0)  # it is alive
    try:
        assert start_writer(tmp_path, 1).wait() == 0
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_same_process_cannot_open_a_shard_twice(tmp_path, identity):
    mine = f"process {os.getpid()} on"
    with open_shard(tmp_path, identity), pytest.raises(RecordError, match=mine), open_shard(tmp_path, identity):
        pass
    with open_shard(tmp_path, identity):
        pass


def test_two_shards_are_written_at_once(tmp_path, identity):
    with open_shard(tmp_path, identity, Shard(0, 2)) as even, open_shard(tmp_path, identity, Shard(1, 2)) as odd:
        even.append({"index": 0, "id": "a"})
        odd.append({"index": 1, "id": "b"})


def test_a_holder_that_has_not_written_its_name_yet_is_another_process(tmp_path, identity):
    with open_shard(tmp_path, identity):
        os.truncate(tmp_path / "shard-00000-of-00001.lock", 0)
        with pytest.raises(RecordError, match="written by another process"), open_shard(tmp_path, identity):
            pass
