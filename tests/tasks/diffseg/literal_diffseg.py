"""DiffSeg written out from its description (protocol 3.1, 3.3): loops over anchors, maps and pixels, in float64.

Nothing of the package is used, and no library beyond numpy's arrays. Maps are nested [row][column][row][column].
"""

from __future__ import annotations

import math

import numpy as np


def nearest(coarse: int, fine: int, cell: int) -> int:
    """The coarse cell that holds the centre of a fine one."""
    return math.floor((cell + 0.5) / fine * coarse)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel bilinear resizing, clamped at the border."""
    rows, columns = image.shape
    out = np.zeros((height, width))
    for y in range(height):
        v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
        top = min(int(v), rows - 1)
        bottom = min(top + 1, rows - 1)
        for x in range(width):
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            left = min(int(u), columns - 1)
            right = min(left + 1, columns - 1)
            upper = image[top, left] * (1 - (u - left)) + image[top, right] * (u - left)
            lower = image[bottom, left] * (1 - (u - left)) + image[bottom, right] * (u - left)
            out[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return out


def aggregated(layers: list[tuple[tuple[int, int], np.ndarray]]) -> np.ndarray:
    """Layers, each a size and its heads (H, h w, h w), to the tensor (height, width, height, width)."""
    sizes = list(dict.fromkeys(size for size, _ in layers))
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    sides = {size: math.sqrt(size[0] * size[1]) for size in sizes}
    tensor = np.zeros((height, width, height, width))
    for size in sizes:
        same = [heads for other, heads in layers if other == size]
        mean = sum(heads for heads in same) / len(same)  # the heads are kept
        mean = sum(mean[h] for h in range(len(mean))) / len(mean)
        grown = {}
        for token in range(size[0] * size[1]):
            one = bilinear(mean[token].reshape(size), height, width)
            grown[divmod(token, size[1])] = one / one.sum()
        for y in range(height):
            for x in range(width):
                parent = nearest(size[0], height, y), nearest(size[1], width, x)
                tensor[y, x] += grown[parent] * sides[size] / sum(sides.values())
    return tensor


def symmetric_kl(x: np.ndarray, y: np.ndarray) -> float:
    """Pixel by pixel; NaN as soon as an entry is zero, as 0 * log 0 is."""
    forward = backward = 0.0
    for p, q in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True):
        if p == 0 or q == 0:
            return math.nan
        forward += p * (math.log(p) - math.log(q))
        backward += q * (math.log(q) - math.log(p))
    return (forward + backward) / 2


def half_symmetric_kl(x: np.ndarray, y: np.ndarray) -> float:
    """Every operation in float16, as the official code has the first round."""
    x, y = x.astype(np.float16), y.astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.log(x) - np.log(y)
        forward, backward = (x * quotient).sum(dtype=np.float16), -(y * quotient).sum(dtype=np.float16)
        return float(forward / np.float16(2) + backward / np.float16(2))


def merged(
    tensor: np.ndarray, anchors: list[int], tau: float, iterations: int, distance=symmetric_kl
) -> list[np.ndarray]:
    """Maps (height, width) that are left; `distance` is that of the first round."""
    height, width = tensor.shape[:2]
    every = [tensor[divmod(token, width)] for token in range(height * width)]
    maps = []
    for anchor in anchors:
        near = [one for one in every if distance(every[anchor], one) < tau]
        maps.append(sum(near) / len(near) if near else np.full((height, width), np.nan))
    for _ in range(iterations - 1):
        matched, means = set(), []
        for index, anchor in enumerate(maps):
            if index in matched:
                continue
            near = [other for other in range(len(maps)) if symmetric_kl(anchor, maps[other]) < tau]
            matched.update(near)
            if near:
                means.append(sum(maps[other] for other in near) / len(near))
        maps = means
    return maps


def label_map(maps: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The first of the strongest at every pixel."""
    grown = [bilinear(one, height, width) for one in maps]
    labels = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            for index, one in enumerate(grown):
                if one[y, x] > grown[labels[y, x]][y, x]:
                    labels[y, x] = index
    return labels


def spaced(rank: list[float], side: int, count: int, distance: float) -> list[int]:
    """Tokens by rank, at a distance from those taken; then the others by rank."""
    order = sorted(range(len(rank)), key=lambda token: -rank[token])
    taken: list[int] = []
    for token in order:
        if len(taken) < count and all(
            math.dist(divmod(token, side), divmod(other, side)) >= distance for other in taken
        ):
            taken.append(token)
    others = [token for token in order if token not in taken]
    return taken + others[: count - len(taken)]
