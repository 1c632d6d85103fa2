"""Promise: a reducer that streams holds the same memory however many layers run."""

import gc
import weakref

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from attention_chains.capture import MeanAttention, capture

TOKENS, HEADS = 64, 2
MATRIX = HEADS * TOKENS * TOKENS * 4  # bytes of one layer's attention


@pytest.fixture(autouse=True, scope="module")
def _quick_collections():
    """Collect once, then leave the objects of all imported libraries out of the collections that follow."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def peak_bytes(work):
    """Highest sum of live tensor bytes while `work` runs, from the allocator's own events."""
    gc.collect()  # or what is garbage already would be freed inside and lower the count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    live = peak = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@torch.inference_mode()
def peak_of(model, reduce):
    x = torch.randn(1, TOKENS, 8)

    def run():
        with capture(model, reduce=reduce() if reduce else None) as tape:
            model(x)
        return tape

    run()
    return peak_bytes(run)


def test_peak_with_a_streaming_mean_does_not_grow_with_depth(stack):
    shallow, deep = (peak_of(stack(depth=depth, heads=HEADS), MeanAttention) for depth in (2, 12))
    assert shallow >= MATRIX
    assert deep - shallow < MATRIX / HEADS


def test_the_measure_sees_matrices_that_are_kept(stack):
    shallow, deep = (peak_of(stack(depth=depth, heads=HEADS), lambda: lambda call: call.matrix()) for depth in (2, 12))
    assert deep - shallow >= 10 * MATRIX


def test_the_mean_holds_one_accumulator_and_one_head(stack):
    plain = peak_of(stack(heads=HEADS), lambda: lambda call: None)
    assert peak_of(stack(heads=HEADS), MeanAttention) - plain <= MATRIX + MATRIX / HEADS + 4096


@pytest.mark.parametrize("reduce", [MeanAttention, lambda: lambda call: call.q.mean()])
def test_no_call_outlives_its_reducer(stack, reduce):
    model, fold, calls = stack(), reduce(), []

    def watched(call):
        calls.append(weakref.ref(call))
        return fold(call)

    with torch.no_grad(), capture(model, reduce=watched):
        model(torch.randn(1, 6, 8))
        gc.collect()
        assert len(calls) == 3
        assert all(call() is None for call in calls)


def test_what_a_capture_kept_is_freed_without_waiting_for_the_garbage_collector(stack):
    """A full GPU does not make Python look for cycles."""
    model, kept = stack(), []
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad(), capture(model) as tape:
            model(torch.randn(1, 6, 8))
        kept += [weakref.ref(call) for layer in tape.layers for call in tape.calls(layer)]
        assert len(kept) == 3 and all(call() is not None for call in kept)
        del tape
        assert all(call() is None for call in kept)
    finally:
        gc.enable()


def test_a_tape_of_calls_holds_no_matrix(stack):
    model = stack(depth=8, heads=HEADS)
    assert peak_of(model, None) - peak_of(model, lambda: lambda call: None) < MATRIX * 8
    q_k_v = 3 * TOKENS * 8 * 4
    assert peak_of(model, None) - peak_of(model, lambda: lambda call: None) <= 8 * q_k_v + 4096
