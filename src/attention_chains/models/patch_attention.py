"""What a vision transformer's attention is handed on as: one block's logits over `[CLS, registers, patches]`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attention_chains.capture import Call, CaptureError
from attention_chains.chain import AttentionChain

PIECE = {
    "cpu": 2**18,
    "cuda": 2**28,
}  # entries of the matrices bounced at a time: a CPU keeps them in its cache


@dataclass(frozen=True, eq=False)
class PatchAttention:
    """Self-attention of one block of a vision transformer, for a batch of images.

    Rankings read it. What costs an n x n is computed when first asked for and kept.

    Attributes
    ----------
    logits : Tensor
        (B, H, T, T) scaled logits before the softmax, fp32 (fp64 of an fp64 model), -inf where the model masks; T is
        1 + registers + patches.
    registers : int
        Tokens between CLS, which is token 0, and the patches.
    grid : (int, int)
        Rows and columns of patches.
    """

    logits: Tensor
    registers: int
    grid: tuple[int, int]

    @classmethod
    def from_call(cls, call: Call, registers: int, grid: tuple[int, int]) -> PatchAttention:
        """Read a recorded call.

        Raises
        ------
        CaptureError
            The call is not over CLS, the registers and the patches.
        """
        tokens = 1 + registers + grid[0] * grid[1]
        if call.q.ndim != 4 or not call.q.shape[-2] == call.k.shape[-2] == tokens:
            raise CaptureError(
                f"Layer '{call.layer}' attends from {call.q.shape[-2]} to {call.k.shape[-2]} tokens, but CLS, "
                f"{registers} registers and {grid[0]} x {grid[1]} patches are {tokens}: choose a self-attention layer "
                "of a vision transformer, at the image size it was loaded for."
            )
        return cls(call.logits(), registers, grid)

    @property
    def patches(self) -> int:
        """Number of patches, P."""
        return self.grid[0] * self.grid[1]

    @property
    def center(self) -> int:
        """Flat index of the central patch among the patches: of N x N with N even, N*N//2 + N//2 (protocol 4.3)."""
        rows, columns = self.grid
        return rows // 2 * columns + columns // 2

    @cached_property
    def full(self) -> Tensor:
        """Attention over all tokens: (B, H, T, T), rows sum to one."""
        return self.logits.softmax(-1)

    @cached_property
    def chain(self) -> AttentionChain:
        """Chains without CLS, batch (B, H), T - 1 tokens: CLS cut, rows normalised, registers in (protocol 0.2)."""
        return AttentionChain.from_scores(self.logits[..., 1:, 1:])

    def bounced(self, n: int) -> Tensor:
        """State of the `chain` after `n` bounces from uniform, the mean row of its n-th power.

        The same numbers as ``chain.bounce("uniform", n)``, for blocks inside a forward pass: a few matrices at a time
        are normalised and bounced while they are in the cache, and nothing waits for a GPU to say that they are sound.

        Parameters
        ----------
        n
            Bounces, at least 1. One is the column sum over the number of tokens.

        Returns
        -------
        Tensor
            (B, H, T - 1), rows sum to one.
        """
        cut = self.logits[..., 1:, 1:].flatten(0, 1)  # (B * H, T - 1, T - 1), a view
        step = max(1, PIECE.get(cut.device.type, PIECE["cuda"]) // cut[0].numel())
        states = [_bounced(piece.softmax(-1), n) for piece in cut.split(step)]
        return torch.cat(states).unflatten(0, self.logits.shape[:2])

    def row(self, patch: int) -> Tensor:
        """Row of one patch, a flat index among them, in the chain without CLS: (B, H, P)."""
        return self.of_patches(self.logits[..., 1 + self.registers + patch, 1:].softmax(-1))

    def of_patches(self, scores: Tensor) -> Tensor:
        """Drop CLS and registers: (..., T), or (..., T - 1) of the chain, to (..., P)."""
        return scores[..., -self.patches :]


def _bounced(matrices: Tensor, n: int) -> Tensor:
    """Mean rows (N, n_tokens) of the n-th powers of (N, n_tokens, n_tokens), by n vector-matrix products."""
    state = matrices.mean(-2, keepdim=True)  # (N, 1, n_tokens), the first bounce from uniform
    for _ in range(n - 1):
        state = torch.bmm(state, matrices)
    return state.squeeze(-2)
