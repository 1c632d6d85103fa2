"""Compute the samples of a run and keep them; says on stdout what it does. The tests disturb it.

Usage: writer_program.py FOLDER SAMPLES [--shard INDEX COUNT] [--nap SECONDS] [--file-limit BYTES] [--fork] [--hold]
"""

import argparse
import os
import random
import resource
import signal
import sys
import time

from attention_chains.records import RecordError, RunIdentity, Shard, ShardStore, open_shard

IDENTITY = RunIdentity(config={"n": 2}, protocol="ca", weights="w", data="d")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("samples", type=int)
    parser.add_argument("--shard", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--nap", type=float, default=0.0)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--fork", action="store_true")
    parser.add_argument("--hold", action="store_true")
    return parser.parse_args()


def compute(index: int) -> dict:
    """A record whose numbers depend on the sample alone, wide enough to be torn."""
    draw = random.Random(index)
    return {"index": index, "id": f"sample-{index}", "stats": {"outgoing": [draw.random() for _ in range(200)]}}


def run(store: ShardStore, shard: Shard, samples: int, nap: float) -> None:
    for index in range(samples):
        if shard.owns(index) and f"sample-{index}" not in store.finished:
            time.sleep(nap)
            print("computed", index, flush=True)
            store.append(compute(index))
            print("kept", index, flush=True)


def main() -> None:
    options = parse()
    if options.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    shard = Shard(*options.shard)
    with open_shard(options.folder, IDENTITY, shard) as store:
        if options.fork and (child := fork_sleeper()):
            print("forked", child, flush=True)
        run(store, shard, options.samples, options.nap)
        if options.hold:
            print("holding", os.getpid(), flush=True)
            time.sleep(60)


def fork_sleeper() -> int:
    """A worker that outlives this process, as a data loader's may; it leaves the pipes alone."""
    child = os.fork()
    if child == 0:
        os.closerange(0, 3)
        time.sleep(60)
        os._exit(0)
    return child


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell is started to ignore it
    try:
        main()
    except RecordError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
