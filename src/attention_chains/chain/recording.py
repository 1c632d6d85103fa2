"""Computing without a record for gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch.autograd import forward_ad


def unrecorded() -> AbstractContextManager[None]:
    """Record nothing for backward passes: by inference mode, which costs least for each operation.

    Under forward-mode differentiation by no_grad, which lets tangents through; inference mode drops them.
    """
    return torch.no_grad() if forward_ad._current_level >= 0 else torch.inference_mode()
