"""Where a run computes."""

from __future__ import annotations

import torch

from attention_chains.config import ConfigError


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that is there; auto is the first GPU, else the CPU.

    Raises
    ------
    ConfigError
        The device asked for is not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.mps.is_available())}[device.type]
    if (device.index or 0) >= count:
        raise ConfigError(
            f"device={name} is not on this machine, where torch sees {count} of its kind: use device=auto."
        )
    return device
