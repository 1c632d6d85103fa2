"""Symmetric Kullback-Leibler divergence of many maps from many others, through matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from attention_chains.methods.errors import MethodError

BLOCK = 2**21  # entries of the maps whose logarithms are held at a time
ROUNDED: Mapping[str, Callable[[Tensor], Tensor]] = {  # by the name of the precision
    "float32": lambda values: values,
    "float16": lambda values: values.half().to(values.dtype),
}


def symmetric_kl(first: Tensor, second: Tensor, precision: str = "float32") -> Tensor:
    """Half of KL(x || y) + KL(y || x), for every map x of one set and every y of another (protocol 3.1).

    It is sum_i (x_i - y_i) (log x_i - log y_i) / 2, whose four terms are two sums over single maps and two matrix
    products. Beside the answer only the logarithms of some maps are held, never a difference for each pair.

    A map with an entry of zero has no distance, to any map, itself included: NaN, as 0 log 0 is in the official code.

    Parameters
    ----------
    first
        (..., K, n) float32 or float64, entries of 0 or more: distributions over n pixels.
    second
        (..., M, n) likewise.
    precision
        "float32": the maps as they are. "float16": maps, and then their logarithms, rounded to float16 first, so that
        an entry of 2^-25 (3e-8) or less is zero. The sums are not: in the official code their order is the library's.

    Returns
    -------
    Tensor
        (..., K, M) of the maps' own dtype, natural logarithms; [.1, .2, .3, .4] and uniform are .114109 apart.

    Raises
    ------
    MethodError
        There is no such precision.
    """
    if precision not in ROUNDED:
        raise MethodError(f"The precision is '{precision}': choose one of {', '.join(ROUNDED)}.")
    x, log_x = _with_logarithm(first, precision)
    own_x = (x * log_x).sum(-1, keepdim=True)  # (..., K, 1)
    held = math.prod(second.shape[:-2]) * second.shape[-1]
    columns = []
    for block in second.split(max(1, BLOCK // max(held, 1)), dim=-2):
        y, log_y = _with_logarithm(block, precision)
        own_y = (y * log_y).sum(-1).unsqueeze(-2)  # (..., 1, m)
        columns.append((own_x + own_y - x @ log_y.mT - log_x @ y.mT) / 2)
    return torch.cat(columns, -1)


def _with_logarithm(maps: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Maps, and their logarithms less that of 1/n: it cancels, and with it what it would round off."""
    rounded = ROUNDED[precision]
    maps = rounded(maps)
    return maps, rounded(maps.log()) + math.log(maps.shape[-1])
