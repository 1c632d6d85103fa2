"""One attention call of a model, as it was made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attention_chains.capture.attention import attention, logits
from attention_chains.capture.errors import CaptureError
from attention_chains.chain import AttentionChain


@dataclass(frozen=True, eq=False)
class Call:
    """One call of scaled_dot_product_attention: what the softmax saw.

    Nothing of size n x n is held but the model's own mask, and one triangle for all causal calls: the logits, the
    matrix and the chain are computed on demand, on the model's device and, where the model records gradients, as part
    of its graph. `dataclasses.replace` makes an edited call.

    Attributes
    ----------
    layer : str
        Path of the module that made the call, as in ``model.named_modules()``.
    q : Tensor
        (B, H, n, d), after the model's own norms and rotary embedding. Any leading dimensions before H are kept.
    k : Tensor
        (B, H, m, d); grouped keys are repeated, one for each query head.
    v : Tensor
        (B, H, m, e), repeated likewise.
    scale : float
        Factor of q k^T.
    mask : Tensor or None
        Broadcasts to (B, H, n, m). Boolean (True: may attend) or added to the logits. A causal call's is its triangle.
    """

    layer: str
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    mask: Tensor | None = None

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.q.shape[-3]

    def logits(self, head: int | None = None) -> Tensor:
        """Scaled and masked logits, before the softmax.

        Parameters
        ----------
        head : int, optional
            One head instead of all.

        Returns
        -------
        Tensor
            (B, H, n, m), or (B, n, m) of one head; fp32 (fp64 for an fp64 model), -inf where masked.

        Raises
        ------
        CaptureError
            The layer has no such head.
        """
        return logits(self._select(self.q, head), self._select(self.k, head), self.scale, self._select(self.mask, head))

    def matrix(self, head: int | None = None, out: Tensor | None = None) -> Tensor:
        """Attention after the softmax, `A[i, j]`: row i is the query.

        Parameters
        ----------
        head : int, optional
            One head instead of all: a reducer that goes head by head never holds (H, n, m) twice.
        out : Tensor, optional
            Buffer of the answer's shape and dtype to write into; only where no gradient is recorded.

        Returns
        -------
        Tensor
            (B, H, n, m), or (B, n, m) of one head; fp32 (fp64 for an fp64 model), rows sum to one. A query with every
            key masked has a row of zeros, as in scaled_dot_product_attention.

        Raises
        ------
        CaptureError
            The layer has no such head.
        """
        q, k, mask = (self._select(tensor, head) for tensor in (self.q, self.k, self.mask))
        return attention(q, k, self.scale, mask, out)

    def chain(self) -> AttentionChain:
        """Read the attention as Markov chains, one for each head (paper, section 3).

        The matrices are formed where they fit comfortably into memory; else the chains stay matrix-free.

        Returns
        -------
        AttentionChain
            Batch (B, H), n tokens.

        Raises
        ------
        CaptureError
            Queries and keys are different tokens (cross-attention).
        ChainError
            The matrix is no transition matrix: the model gave NaN, or a query has every key masked.
        """
        queries, keys = self.q.shape[-2], self.k.shape[-2]
        if queries != keys:
            raise CaptureError(
                f"The attention of layer '{self.layer}' goes from {queries} queries to {keys} keys, but a chain needs "
                "the same tokens on both sides; use .matrix(), or choose self-attention layers."
            )
        return AttentionChain.from_qk(self.q, self.k, self.scale, self.mask)

    def _select(self, tensor: Tensor | None, head: int | None) -> Tensor | None:
        if head is not None and not 0 <= head < self.heads:
            raise CaptureError(
                f"Layer '{self.layer}' has no head {head}; choose one of 0..{self.heads - 1}, or None for all of them."
            )
        if tensor is None or head is None or tensor.ndim < 3:
            return tensor
        return tensor.select(-3, head if tensor.shape[-3] > 1 else 0)  # a mask may be shared by the heads


def read_call(
    layer: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """Read the arguments of scaled_dot_product_attention into a `Call`.

    Parameters
    ----------
    layer : str
        Path of the calling module.
    query, key, value, attn_mask, is_causal, scale, enable_gqa
        As scaled_dot_product_attention takes them.

    Returns
    -------
    Call
        In the dtype the softmax works from: under autocast, that of autocast.

    Raises
    ------
    CaptureError
        The tensors have no head dimension.
    """
    if query.ndim < 3:
        raise CaptureError(
            f"Layer '{layer}' calls scaled_dot_product_attention with a query of shape {tuple(query.shape)}, which has "
            "no head dimension; unsqueeze it to (heads, tokens, channels)."
        )
    q, k, v, mask = (_as_autocast(tensor) for tensor in (query, key, value, attn_mask))
    if enable_gqa:
        k, v = (tensor.repeat_interleave(q.shape[-3] // tensor.shape[-3], dim=-3) for tensor in (k, v))
    if is_causal:
        mask = _triangle(q.shape[-2], k.shape[-2], q.device)
    batch = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], () if mask is None else mask.shape[:-2])
    q, k, v = (tensor.expand(*batch, -1, -1) for tensor in (q, k, v))
    return Call(layer, q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, mask)


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _triangle(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which keys a causal call's queries may attend to: one for the calls of all layers, since reducers keep calls."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()


def _as_autocast(tensor: Tensor | None) -> Tensor | None:
    """Round as autocast does on the way into the kernel, so that the record is what the kernel saw."""
    if tensor is None or tensor.dtype != torch.float32 or not torch.is_autocast_enabled(tensor.device.type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))
