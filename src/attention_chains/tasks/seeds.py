"""Seeds that belong to a sample, whatever batch or shard it is in."""

from __future__ import annotations

import hashlib


def noise_seed(seed: int, sample: str) -> int:
    """Seed of one sample's noise: depends on the run's seed and the sample's id, not on its place or batch."""
    digest = hashlib.sha256(f"{seed}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
