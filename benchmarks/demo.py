"""What the demo costs: wall time and peak memory of all methods, the price of a method more, and start-up.

python benchmarks/demo.py            200 scenes, one run each; nothing else should run on the machine
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = Path(__file__).resolve().parent.parent / "run.py"


def timed(*overrides: str) -> tuple[float, float]:
    """Wall seconds and peak memory (GB, the largest child so far) of one command."""
    started = time.perf_counter()
    subprocess.run([sys.executable, RUN, *overrides], check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # kB on Linux, bytes on macOS
    return time.perf_counter() - started, peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    """Print four lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="scenes")
    options = parser.parse_args()
    best = min(timed("--help")[0] for _ in range(3))
    print(f"start-up (--help)            {best:6.2f} s (best of 3)")
    with tempfile.TemporaryDirectory() as out:
        common = (f"out={out}", f"data.n={options.n}", "logger=none")
        one, _ = timed(*common, "method=outgoing", "method.heads=uniform")
        lambda2, _ = timed(*common, "method=outgoing")
        every, peak = timed(*common, "experiment=table7")
    print(f"one method, uniform heads    {one:6.1f} s for {options.n} scenes")
    print(f"one method, lambda2 heads    {lambda2:6.1f} s, {lambda2 / one:.2f}x")
    print(f"eleven methods, table, plots {every:6.1f} s, {every / one:.2f}x; peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
