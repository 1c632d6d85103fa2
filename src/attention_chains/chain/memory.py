"""How much memory there is for more."""

from __future__ import annotations

import torch


def free_cuda_memory(device: torch.device) -> int:
    """Bytes that torch can still take on a CUDA device: the driver's, and those that it holds without using them."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held
