"""Muon for convolutions does to a kernel what torch's Muon does to the matrix with a row for each output channel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

SETTINGS = {"lr": 0.1, "weight_decay": 0.05, "adjust_lr_fn": "match_rms_adamw"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 3])
def test_kernels_and_matrices_take_the_same_steps(scripts, layout, size):
    from minis.loop import KernelMuon

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 6, size), nn.Flatten(), nn.Linear(6 * (5 - size) ** 2, 3)).to(
        memory_format=layout
    )
    weights = [layers[0].weight, layers[2].weight]
    matrices = [nn.Parameter(weight.detach().clone().flatten(1)) for weight in weights]
    ours, theirs = KernelMuon(weights, **SETTINGS), torch.optim.Muon(matrices, **SETTINGS)
    before = [weight.detach().clone() for weight in weights]
    for _ in range(3):
        layers(torch.randn(8, 4, 4, 4)).square().mean().backward()
        for matrix, weight in zip(matrices, weights, strict=True):
            matrix.grad = weight.grad.flatten(1).clone()
        ours.step()
        theirs.step()
        ours.zero_grad()
        assert all(weight.grad is None for weight in weights)
    for weight, matrix, old in zip(weights, matrices, before, strict=True):
        assert (weight - old).abs().max() > 0.01
        torch.testing.assert_close(weight.flatten(1), matrix, rtol=0.02, atol=5e-3)  # its steps are made in bf16


def test_a_kernel_without_a_gradient_stays(scripts):
    from minis.loop import KernelMuon

    layer = nn.Conv2d(2, 3, 3)
    before = layer.weight.detach().clone()
    KernelMuon([layer.weight], **SETTINGS).step()
    assert torch.equal(layer.weight, before)


def test_inputs_outputs_and_biases_are_left_to_adamw(scripts):
    from minis.loop import Recipe, _optimisers

    model = nn.ModuleDict({name: nn.Conv2d(2, 2, 3) for name in ("conv_in", "middle", "conv_out")})
    muon, adamw = _optimisers(model, Recipe(1, 1e-3, muon="kernels"))
    assert [id(kernel) for kernel, _ in muon.kernels] == [id(model["middle"].weight)]
    left = {id(p) for p in adamw.param_groups[0]["params"]}
    assert left == {id(p) for p in model.parameters()} - {id(model["middle"].weight)}
    (only,) = _optimisers(model, Recipe(1, 1e-3))
    assert len(only.param_groups[0]["params"]) == 6
