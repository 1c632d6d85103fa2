"""What a user would pick instead of the chain core, written as its own documentation shows it."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from fast_pagerank import pagerank_power
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import eigs
from sknetwork.ranking import PageRank
from torch import Tensor


def eigvals(matrices: Tensor) -> Tensor:
    """lambda2 from all eigenvalues, by LAPACK (cuSOLVER or MAGMA on a GPU), in the matrices' own type."""
    return torch.linalg.eigvals(matrices).abs().topk(2).values[..., 1]


def arpack(matrices: Tensor, tol: float = 0) -> Tensor:
    """lambda2 by scipy's ARPACK, two eigenvalues of each matrix in turn, on the CPU; to round-off by default."""
    pairs = [np.abs(eigs(matrix, k=2, tol=tol, return_eigenvectors=False)) for matrix in matrices.numpy()]
    return torch.tensor([pair.min() for pair in pairs])


def power_method(matrix: Tensor, alpha: float, step: float = 1e-5) -> tuple[Tensor, int]:
    """The classical PageRank iteration of one chain, until the L1 change is below `step`: the state, and the steps."""
    state, steps = matrix.new_full((len(matrix),), 1 / len(matrix)), 0
    while True:
        bounced, steps = alpha * (state @ matrix) + (1 - alpha) / len(matrix), steps + 1
        if (bounced - state).abs().sum() < step:
            return bounced, steps
        state = bounced


def networkx_pagerank(graph: nx.DiGraph, alpha: float) -> np.ndarray:
    """`networkx.pagerank` of a graph that is already built."""
    return np.array(list(nx.pagerank(graph, alpha=alpha, tol=1e-7, max_iter=5000).values()))


def fast_pagerank(sparse: csr_matrix, alpha: float) -> np.ndarray:
    """fast-pagerank's power method."""
    return pagerank_power(sparse, p=alpha, tol=1e-5)


def scikit_network(sparse: csr_matrix, alpha: float) -> np.ndarray:
    """scikit-network's PageRank with its default solver."""
    return PageRank(damping_factor=alpha, n_iter=5000, tol=1e-5).fit_predict(sparse)
