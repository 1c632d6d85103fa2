"""Training through explicit attention is training through the fused kernel."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F


def inputs(tokens: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, tokens, 16, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def value_and_gradients(given, **settings):
    out = F.scaled_dot_product_attention(*given, **settings)
    return out.detach(), torch.autograd.grad(out.square().sum(), given)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.3}, {"is_causal": True}], ids=str)
def test_output_and_gradients_equal_the_fused_kernels(settings):
    given = inputs(80)
    expected, slopes = value_and_gradients(given, **settings)
    from minis.attention import ExplicitAttention

    with ExplicitAttention():
        found, found_slopes = value_and_gradients(given, **settings)
    assert torch.allclose(found, expected, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found_slopes, slopes, strict=True))


def test_samples_taken_a_few_at_a_time_are_the_same(monkeypatch):
    from minis import attention

    given = inputs(80)
    with attention.ExplicitAttention():
        whole = F.scaled_dot_product_attention(*given)
        monkeypatch.setattr(attention, "LARGEST", 1)
        assert torch.equal(F.scaled_dot_product_attention(*given), whole)


def test_a_mask_is_kept():
    query, key, value = inputs(80)
    mask = torch.rand(80, 80, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    from minis.attention import ExplicitAttention

    with ExplicitAttention():
        assert torch.equal(F.scaled_dot_product_attention(query, key, value, attn_mask=mask), expected)


def test_short_sequences_go_to_the_fused_kernel():
    given = inputs(20)
    from minis.attention import ExplicitAttention

    with ExplicitAttention():
        found = F.scaled_dot_product_attention(*given)
    assert torch.equal(found, F.scaled_dot_product_attention(*given))
