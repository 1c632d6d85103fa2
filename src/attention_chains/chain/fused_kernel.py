"""Bounces of matrix-free chains by scaled_dot_product_attention, whose CUDA kernels keep no attention in memory.

The kernel's softmax runs along rows, which gives v A^T. For v A the keys ask and the queries answer:
``A[i, j] = exp([k_j, 1] . [q_i, -lse_i])``, one more feature, so that the kernel's softmax divides by the column sums;
they are known and multiplied back. q is scaled already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

# The memory-efficient kernel is the only one that takes float32; elsewhere than on CUDA it gives way to plain products.
BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LARGEST = 64.0  # logit: above, round-off of the feature -lse is more than 1e-5 of a row's sum
ALIGNED = 4  # features, and states, come in multiples of 16 bytes


def usable(q: Tensor) -> bool:
    """Whether the kernel can take q and k as (chains, n, d) on their device."""
    if q.device.type != "cuda" or q.dtype != torch.float32 or q.numel() == 0:
        return False
    example = _aligned(pad(q[:1, :1].detach(), (0, 1))).unsqueeze(0)
    return can_use_efficient_attention(SDPAParams(example, example, example, None, 0.0, False, False))


def apply(q: Tensor, k: Tensor, lse: Tensor, columns: Tensor, causal: bool, state: Tensor) -> Tensor:
    """Return v A for states (chains, states, n), with A's row sums' logs and its column sums, both (chains, n)."""
    asking = torch.cat([k, torch.ones_like(lse).unsqueeze(-1)], -1)
    answering = torch.cat([q, -lse.unsqueeze(-1)], -1)
    if not causal:
        return _attend(asking, answering, state, False) * columns.unsqueeze(1)
    # keys are asked by later tokens: back to front, that is causal too
    back = _attend(asking.flip(1), answering.flip(1), state.flip(-1), True)
    return back.flip(-1) * columns.unsqueeze(1)


def apply_transposed(q: Tensor, k: Tensor, causal: bool, state: Tensor) -> Tensor:
    """Return v A^T for states (chains, states, n)."""
    return _attend(q, k, state, causal)


def _attend(q: Tensor, k: Tensor, state: Tensor, causal: bool) -> Tensor:
    """Return softmax(q k^T) times every state, (chains, states, n)."""
    q, k, values = (_aligned(tensor).unsqueeze(0) for tensor in (q, k, state.mT))
    with sdpa_kernel(BACKENDS, set_priority=True):
        out = scaled_dot_product_attention(q, k, values, is_causal=causal, scale=1.0)
    return out.squeeze(0)[..., : state.shape[1]].mT


def _aligned(values: Tensor) -> Tensor:
    """Add features of zero, as the kernel wants."""
    return pad(values, (0, -values.shape[-1] % ALIGNED))
