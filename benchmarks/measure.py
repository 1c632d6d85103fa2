"""How benchmarks measure: sides in turn, medians of paired ratios, peak memory from the system's own counters."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from threadpoolctl import threadpool_limits

Work = Callable[[], object]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def one_thread() -> None:
    """Keep torch to one thread, and the BLAS that numpy and scipy bring to theirs: a peer must not have more."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def seconds(work: Work, device: str) -> float:
    """Wall-clock time of one call, until the device is done."""
    synchronise(device)
    start = perf_counter()
    work()
    synchronise(device)
    return perf_counter() - start


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_turn(works: Mapping[str, Work], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every work, all of them once a round, after one unmeasured round where there are several."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + (rounds > 1)):
        for name, work in works.items():
            taken = seconds(work, device)
            if round_ or rounds == 1:
                times[name].append(taken)
    return times


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of one side's time over the other's."""
    return median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def extra_peak(work: Work, device: str) -> int | None:
    """Bytes that a call held at its peak beyond what was held before; None where the system does not say.

    On the CPU it must be the first large work of its process: memory that the allocator kept from before is reused
    unseen.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")  # the peak starts anew from what is resident now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def in_fresh_process(script: str, *arguments: str) -> str:
    """Last line of what a script prints; it gives freed memory back at once, so that a later peak shows."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip().splitlines()[-1]


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
