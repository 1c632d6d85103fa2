"""A ready-made reducer: the mean of attention over layers, passes and steps."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_chains.capture.call import Call
from attention_chains.capture.errors import CaptureError
from attention_chains.chain import AttentionChain


class MeanAttention:
    """Running mean over calls of the softmax attention, in one fp32 accumulator.

    Give it to `capture` as `reduce`. It is filled head by head in place: never is more held than the mean (B, H, n, n)
    and one head (B, n, n), however many layers and passes run. Its chain takes the mean over as it is; only a call that
    comes after that starts from a copy.

    Attributes
    ----------
    count : int
        Number of calls in the mean.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._head: Tensor | None = None
        self._lent = False  # whether a chain reads the mean

    @torch.no_grad()
    def __call__(self, call: Call) -> None:
        """Add one call to the mean.

        Raises
        ------
        CaptureError
            Its attention has another shape, or is on another device, than that of the calls before.
        """
        shape = torch.Size((*call.q.shape[:-1], call.k.shape[-2]))
        if self._mean is None:
            self._allocate(shape, call.q)
        if shape != self._mean.shape:
            raise CaptureError(
                f"Layer '{call.layer}' has attention of shape {tuple(shape)}, but the mean so far has "
                f"{tuple(self._mean.shape)}; use one MeanAttention for each shape."
            )
        if call.q.device != self._mean.device:
            raise CaptureError(
                f"Layer '{call.layer}' is on {call.q.device}, but the mean so far on {self._mean.device}; use one "
                "MeanAttention for each device."
            )
        if self._lent:
            self._mean, self._lent = self._mean.clone(), False
        self.count += 1
        for head in range(call.heads):
            self._mean.select(-3, head).lerp_(call.matrix(head, out=self._head), 1 / self.count)

    def matrix(self) -> Tensor:
        """Give the mean itself, not a copy: further calls change it.

        Returns
        -------
        Tensor
            (B, H, n, m), fp32 (fp64 for an fp64 model), on the model's device; rows sum to one.

        Raises
        ------
        CaptureError
            No call was added yet.
        """
        if self._mean is None:
            raise CaptureError("The mean attention is empty; run the model inside a capture with this reducer first.")
        return self._mean

    def chain(self) -> AttentionChain:
        """Read the mean as Markov chains, one for each head, without copying it.

        Returns
        -------
        AttentionChain
            Batch (B, H), n tokens.

        Raises
        ------
        CaptureError
            No call was added yet.
        ChainError
            The mean is no transition matrix.
        """
        chain = AttentionChain(self.matrix())
        self._lent = True
        return chain

    @torch.inference_mode(False)
    def _allocate(self, shape: torch.Size, q: Tensor) -> None:
        """Ordinary tensors even under inference_mode, so that the mean can go on outside of it."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        self._mean = torch.zeros(shape, dtype=dtype, device=q.device)
        self._head = torch.empty((*shape[:-3], *shape[-2:]), dtype=dtype, device=q.device)
