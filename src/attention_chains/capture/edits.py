"""Ready-made edits: functions from a call to an edited call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from attention_chains.capture.call import Call
from attention_chains.capture.errors import CaptureError


def mask_tokens(tokens: Tensor | Sequence[int] | int) -> Callable[[Call], Call]:
    """Edit that hides tokens: their columns go to -inf before the softmax (protocol 4.2).

    Heads with nothing hidden keep their attention bit for bit where the same kernel serves masked and unmasked calls,
    as on CPU; on CUDA another kernel may be chosen, which rounds differently.

    Parameters
    ----------
    tokens : Tensor, sequence of int, or int
        Indices, one or (k,) for every head and image, or anything that broadcasts to (B, H, k). Or boolean, anything
        that broadcasts to (B, H, m), True where hidden: heads may then hide different numbers of tokens, and no value
        is read back to the host.

    Returns
    -------
    callable
        For the `edit` of a capture, or to apply to a call inside one's own edit.

    Raises
    ------
    CaptureError
        The tokens are neither integer nor boolean, or an index is negative; and, when the edit meets a layer, it has
        fewer tokens or other batch and head dimensions.
    """
    tokens = torch.as_tensor(tokens)
    if tokens.dtype == torch.bool:
        if tokens.ndim == 0:
            raise CaptureError("Tokens to mask are a single boolean; give one for each token.")
        return lambda call: _hide(call, _broadcast(tokens, call, call.k.shape[-2]))
    if tokens.is_floating_point() or tokens.is_complex():
        if tokens.numel():
            raise CaptureError(f"Tokens to mask have dtype {tokens.dtype}; give integer indices or a boolean mask.")
        tokens = tokens.long()  # torch reads an empty list as floating
    tokens = torch.atleast_1d(tokens)
    first, last = (tokens.min().item(), tokens.max().item()) if tokens.numel() else (0, -1)
    if first < 0:
        raise CaptureError(f"Token {first} cannot be masked; give indices from 0 up.")
    return lambda call: _hide(call, _columns(tokens.long(), last, call))


def _columns(indices: Tensor, last: int, call: Call) -> Tensor:
    """Boolean (B, H, m), True at the indices."""
    n = call.k.shape[-2]
    if last >= n:
        raise CaptureError(f"Token {last} cannot be masked in layer '{call.layer}', which has tokens 0..{n - 1}.")
    indices = _broadcast(indices.to(call.k.device), call, indices.shape[-1])
    return torch.zeros(call.k.shape[:-1], dtype=torch.bool, device=call.k.device).scatter(-1, indices, True)


def _broadcast(tokens: Tensor, call: Call, width: int) -> Tensor:
    shape = (*call.k.shape[:-2], width)
    try:
        return tokens.to(call.k.device).broadcast_to(shape)
    except RuntimeError as error:
        raise CaptureError(
            f"Tokens to mask of shape {tuple(tokens.shape)} do not broadcast to {shape} in layer '{call.layer}'; give "
            "one row for every head, or one for each image and head."
        ) from error


def _hide(call: Call, hidden: Tensor) -> Call:
    """Call whose mask hides the columns; `hidden`: (B, H, m)."""
    hidden = hidden.unsqueeze(-2)  # (B, H, 1, m)
    if call.mask is None:
        return replace(call, mask=~hidden)
    if call.mask.dtype == torch.bool:
        return replace(call, mask=call.mask & ~hidden)
    return replace(call, mask=call.mask.masked_fill(hidden, -inf))
