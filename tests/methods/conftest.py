"""Attention to read methods off: two images, three heads, 4 text and 6 image tokens, in two streams."""

from __future__ import annotations

import pytest
import torch

from attention_chains.chain import AttentionChain
from attention_chains.models.joint_attention import JointAttention

TEXT, GRID = 4, (2, 3)


@pytest.fixture(scope="session")
def attention() -> JointAttention:
    draw = torch.Generator().manual_seed(0)
    chains = {
        stream: AttentionChain.from_scores(2 * torch.randn(2, 3, 10, 10, generator=draw, dtype=torch.float64))
        for stream in ("dual", "single")
    }
    return JointAttention(chains, TEXT, GRID)


@pytest.fixture(scope="session")
def start() -> torch.Tensor:
    """One image starts from a token, the other from two halves."""
    state = torch.zeros(2, 10, dtype=torch.float64)
    state[0, 2], state[1, 1], state[1, 3] = 1, 0.5, 0.5
    return state
