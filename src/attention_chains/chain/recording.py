"""Computing without a record for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd import forward_ad

from attention_chains.chain.errors import ChainError


@contextmanager
def unrecorded() -> Iterator[None]:
    """Record nothing for backward passes: by inference mode, which costs least for each operation.

    Under forward-mode differentiation by no_grad, which lets tangents through; inference mode drops them.

    Raises
    ------
    ChainError
        If tangents come to a Krylov space, which is written in place and has none.
    """
    if forward_ad._current_level < 0:
        with torch.inference_mode():
            yield
        return
    with torch.no_grad():
        try:
            yield
        except NotImplementedError as error:
            raise ChainError(
                "tangents of forward-mode differentiation do not go through a Krylov space: take gradients of "
                "TokenRank in reverse mode, and lambda2 of detached attention"
            ) from error
