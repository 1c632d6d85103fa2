import pytest
import torch

from attention_chains.chain import AttentionChain

# The chain of the paper's Fig. 2 (protocol 6).
FIG2 = [
    [0.05, 0.05, 0.05, 0.80, 0.05],
    [0.60, 0.10, 0.10, 0.10, 0.10],
    [0.60, 0.10, 0.10, 0.10, 0.10],
    [0.05, 0.05, 0.05, 0.05, 0.80],
    [0.50, 0.05, 0.05, 0.05, 0.35],
]


@pytest.fixture
def fig2():
    return AttentionChain(torch.tensor(FIG2, dtype=torch.float64))


@pytest.fixture
def heads():
    """A batch (2 images, 3 heads) of random chains over 7 tokens, float64."""
    scores = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return AttentionChain.from_scores(3 * scores)
