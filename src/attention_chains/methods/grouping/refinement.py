"""K-means over all attention maps, started from the merged ones (DiffSeg's optional refinement; protocol 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def refined(tensor: Tensor, proposals: Tensor) -> Tensor:
    """Proposals replaced by the mean maps of the clusters that start from them.

    The clusters are scikit-learn's, as in the official code: Lloyd's algorithm in Euclidean distance, on the CPU. Off
    in the benchmark; asked for, it is the one step that takes the tensor to the host.

    Parameters
    ----------
    tensor
        (n, n): row i is the map of token i.
    proposals
        (M, n) of the same dtype, from `merged`.

    Returns
    -------
    Tensor
        (M', n) on the tensor's device and of its dtype, M' at most M: clusters in the order of their proposals, empty
        ones left out.
    """
    from sklearn.cluster import KMeans  # slow to import, and rarely asked for
    from threadpoolctl import threadpool_limits

    if len(proposals) == 0:
        return proposals
    with threadpool_limits(1):  # threads add the centres up in the order in which they end
        clusters = KMeans(len(proposals), init=proposals.cpu().numpy(), n_init=1).fit_predict(tensor.cpu().numpy())
    labels = torch.from_numpy(clusters).to(tensor.device, torch.long)
    members = (labels == torch.arange(len(proposals), device=tensor.device)[:, None]).to(tensor.dtype)  # (M, n)
    counts = members.sum(-1, keepdim=True)
    return (members / counts.clamp(min=1))[counts.squeeze(-1) > 0] @ tensor
