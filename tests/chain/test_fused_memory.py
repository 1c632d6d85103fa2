"""A fused chain of 16384 tokens takes a few megabytes, where its matrix takes a gigabyte."""

import subprocess
import sys
from textwrap import dedent

import pytest

PREPARE = """
    import resource, sys, torch
    from attention_chains.chain import AttentionChain

    def peak():  # megabytes; on Linux getrusage would count what the parent process had
        if sys.platform == "linux":
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def queries_and_keys(n):
        draw = torch.Generator().manual_seed(0)
        return torch.randn(n, 64, generator=draw).requires_grad_(), torch.randn(n, 64, generator=draw)

    torch.set_num_threads(1)
    q, k = queries_and_keys(512)  # what torch allocates once
    AttentionChain.from_qk(q, k, storage="fused").outgoing().bounce(0).square().sum().backward()
    q, k = queries_and_keys(16384)
    trained, q = q, q.detach()
    before = peak()
"""


def peaks(*runs):
    """Return how many megabytes over q and k each run takes, or one before it, in a process of their own."""
    program = dedent(PREPARE) + "".join(f"\n{run}\nprint(peak() - before)" for run in runs)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def test_a_bounce_of_16384_tokens_takes_at_most_40_megabytes():
    fused, matrix = peaks('AttentionChain.from_qk(q, k, storage="fused").bounce(0)', "(q[:4096] @ k[:4096].T).sum()")
    assert fused <= 40
    assert matrix >= 60  # it would have been seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        'AttentionChain.from_qk(q, k, storage="fused").teleport(0.99).outgoing().bounce("uniform", n=2)',
        'AttentionChain.from_qk(q, k, causal=True, storage="fused").drop(0).step(torch.rand(8, 16383))',
        'AttentionChain.from_qk(q, k, mask=torch.arange(16384) < 16000, storage="fused").lazy().bounces(0, n=2)',
    ],
)
def test_every_operation_of_16384_tokens_takes_at_most_40_megabytes(run):
    assert peaks(run)[0] <= 40


@pytest.mark.slow
def test_gradients_of_16384_tokens_take_a_tenth_of_the_matrix():
    (taken,) = peaks('AttentionChain.from_qk(trained, k, storage="fused").bounce(0).square().sum().backward()')
    assert taken <= 107
