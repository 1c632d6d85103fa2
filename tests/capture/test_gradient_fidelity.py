"""Promise: with the explicit softmax in place of the kernel, gradients with respect to attention are exact."""

from math import inf

import pytest
import torch

from attention_chains.capture import capture


def unfused_attention_gradients(model, images):
    """d(logit 0)/dA of every block by timm's own unfused attention."""
    matrices = []

    def keep(module, args, output):
        output.retain_grad()
        matrices.append(output)

    hooks = [block.attn.attn_drop.register_forward_hook(keep) for block in model.blocks]
    for block in model.blocks:
        block.attn.fused_attn = False
    model(images)[:, 0].sum().backward()
    for hook, block in zip(hooks, model.blocks, strict=True):
        hook.remove()
        block.attn.fused_attn = True
    return [matrix.grad for matrix in matrices]


@pytest.fixture
def vit64(small_vit):
    model, images = small_vit
    return model.double(), images.double()


def test_gradients_of_all_layers_at_once(vit64):
    model, images = vit64
    expected = unfused_attention_gradients(model, images)
    matrices = {}

    def explicit(call):
        matrices[call.layer] = call.matrix()
        matrices[call.layer].retain_grad()
        return matrices[call.layer] @ call.v

    with capture(model, reduce=lambda call: None, edit=explicit):
        model(images)[:, 0].sum().backward()
    for matrix, gradient in zip(matrices.values(), expected, strict=True):
        torch.testing.assert_close(matrix.grad, gradient, atol=1e-14, rtol=1e-10)


def test_frozen_parameters_with_the_matrix_as_a_leaf(vit64):
    model, images = vit64
    expected = unfused_attention_gradients(model, images)
    model.requires_grad_(False)
    for layer, gradient in zip([f"blocks.{i}.attn" for i in range(3)], expected, strict=True):
        leaves = []

        def explicit(call, leaves=leaves):
            leaves.append(call.matrix().requires_grad_())
            return leaves[-1] @ call.v

        with capture(model, layer, edit=explicit):
            model(images)[:, 0].sum().backward()
        torch.testing.assert_close(leaves[0].grad, gradient, atol=1e-14, rtol=1e-10)


@pytest.mark.parametrize("floating", [False, True])
def test_the_matrix_of_a_masked_call_has_gradients(attend, floating):
    q, k, v = (tensor.requires_grad_() for tensor in torch.randn(3, 1, 2, 4, 8, dtype=torch.float64).unbind())
    keep = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    with capture(attend) as tape:
        attend(q, k, v, attn_mask=torch.zeros(4, 4).double().masked_fill(~keep, -inf) if floating else keep)

    def rows(q, k):
        scores = (q @ k.mT * 8**-0.5).masked_fill(~keep, -1e300)
        return scores.softmax(-1) * keep

    weight = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    captured = torch.autograd.grad((tape[""].matrix() * weight).sum(), (q, k))
    expected = torch.autograd.grad((rows(q, k) * weight).sum(), (q, k))
    for a, b in zip(captured, expected, strict=True):
        torch.testing.assert_close(a, b)
