"""Promise: the mean of the heads of all calls is the mix of their chains, one call held at a time."""

from __future__ import annotations

import pytest
import torch

from attention_chains.capture import HeadMean, capture
from attention_chains.chain import AttentionChain


@pytest.mark.parametrize("weights", ["uniform", "lambda2"])
def test_heads_of_all_layers_and_passes_of_flux(flux, weights):
    model, run, inputs = flux
    mean = HeadMean(weights)
    with torch.inference_mode():
        with capture(model, reduce=mean) as tape:
            run(inputs)
            run({**inputs, "timestep": inputs["timestep"] / 2})
        with capture(model) as full:
            run(inputs)
            run({**inputs, "timestep": inputs["timestep"] / 2})
        heads = torch.cat([call.matrix() for layer in full for call in full.calls(layer)], dim=1)
    assert mean.count == heads.shape[1]
    assert all(tape.calls(layer) == [] for layer in tape)
    torch.testing.assert_close(mean.chain().matrix(), AttentionChain(heads).mix(weights).matrix(), atol=1e-6, rtol=1e-5)
