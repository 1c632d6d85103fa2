"""Attention written out: the logits and the softmax that `scaled_dot_product_attention` keeps to itself."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from attention_chains.chain.precision import full_precision


def logits(q: Tensor, k: Tensor, scale: float, mask: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Scaled, masked query-key products, in fp32 whatever autocast says.

    Parameters
    ----------
    q, k : Tensor
        (..., n, d) and (..., m, d), any floating dtype.
    scale : float
        Factor of the products, usually ``d ** -0.5``.
    mask : Tensor, optional
        Broadcasts to (..., n, m). Boolean: True where a query may attend. Floating: added.
    out : Tensor, optional
        (..., n, m) buffer for the answer; only where no gradient is recorded.

    Returns
    -------
    Tensor
        (..., n, m), fp32 (fp64 for fp64 input), -inf where masked.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with full_precision(q.device):
        scores = torch.matmul(q.to(dtype) * scale, k.to(dtype).mT, out=out)
        if mask is None:
            return scores
        if mask.dtype == torch.bool:
            return torch.where(mask, scores, scores.new_full((), -inf), out=out)
        return torch.add(scores, mask.to(dtype), out=out)


def attention(q: Tensor, k: Tensor, scale: float, mask: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Softmax of the `logits` over the keys; takes the same arguments.

    Returns
    -------
    Tensor
        (..., n, m), fp32 (fp64 for fp64 input). Rows sum to one, except that a row with every key masked is zero, which
        is what scaled_dot_product_attention makes of it.
    """
    scores = logits(q, k, scale, mask, out)
    if mask is None:
        return torch.softmax(scores, dim=-1, out=out)
    unattended = scores.amax(dim=-1, keepdim=True) == -inf  # (..., n, 1)
    zero = scores.new_zeros(())
    finite = torch.where(unattended, zero, scores, out=out)  # keeps NaN out of the gradient too
    return torch.where(unattended, zero, torch.softmax(finite, dim=-1, out=out), out=out)
