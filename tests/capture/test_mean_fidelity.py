"""Promise: the running mean is the mean of the matrices, whatever the shapes, dtypes and number of calls."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.capture import Call, CaptureError, MeanAttention, capture
from attention_chains.chain import AttentionChain


def call(batch=2, heads=3, n=5, dtype=torch.float32, mask=None, layer="layer"):
    q, k, v = torch.randn(3, batch, heads, n, 4).to(dtype).unbind()
    return Call(layer, q, k, v, scale=0.5, mask=mask)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    count=st.integers(1, 6),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    n=st.integers(1, 7),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    masked=st.booleans(),
)
def test_running_mean_is_the_mean(count, batch, heads, n, dtype, masked):
    mask = torch.ones(n, n, dtype=torch.bool).tril() if masked else None
    calls = [call(batch, heads, n, dtype, mask) for _ in range(count)]
    mean = MeanAttention()
    for one in calls:
        assert mean(one) is None
    expected = torch.stack([one.matrix() for one in calls]).mean(0)
    assert mean.count == count
    assert mean.matrix().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(mean.matrix(), expected, atol=1e-6, rtol=1e-5)


def test_mean_over_layers_and_passes_of_flux(flux):
    model, run, inputs = flux
    mean = MeanAttention()
    with torch.inference_mode():
        with capture(model, reduce=mean) as tape:
            run(inputs)
            run({**inputs, "timestep": inputs["timestep"] / 2})
        with capture(model) as full:
            run(inputs)
            run({**inputs, "timestep": inputs["timestep"] / 2})
        expected = torch.stack([one.matrix() for layer in full for one in full.calls(layer)]).mean(0)
    assert mean.count == 8
    assert all(tape.calls(layer) == [] for layer in tape)
    torch.testing.assert_close(mean.matrix(), expected, atol=1e-6, rtol=1e-5)


def test_a_mean_begun_under_inference_mode_goes_on_outside():
    mean = MeanAttention()
    with torch.inference_mode():
        mean(call())
    mean(call())
    assert mean.count == 2
    assert not mean.matrix().is_inference()


def test_the_mean_records_no_gradient():
    one = call()
    one.q.requires_grad_()
    mean = MeanAttention()
    mean(one)
    assert not mean.matrix().requires_grad


def test_the_chain_is_that_of_the_mean():
    mean = MeanAttention()
    mean(call())
    mean(call())
    assert isinstance(mean.chain(), AttentionChain)
    torch.testing.assert_close(mean.chain().matrix(), mean.matrix())


def test_the_chain_shares_the_mean_until_another_call_comes():
    mean = MeanAttention()
    mean(call())
    storage, chain = mean.matrix().data_ptr(), mean.chain()
    before = chain.matrix()
    assert chain._operator.matrix.data_ptr() == storage
    mean(call())
    assert mean.matrix().data_ptr() != storage
    torch.testing.assert_close(chain.matrix(), before, rtol=0, atol=0)


def test_an_empty_mean_says_so():
    with pytest.raises(CaptureError, match="The mean attention is empty; run the model"):
        MeanAttention().chain()


def test_another_shape_is_refused_and_named():
    mean = MeanAttention()
    mean(call())
    with pytest.raises(CaptureError, match=r"Layer 'late' .* \(2, 3, 6, 6\), but the mean so far has \(2, 3, 5, 5\)"):
        mean(call(n=6, layer="late"))
    assert mean.count == 1
