"""DiffSeg's grouping of one 64 x 64 x 64 x 64 attention tensor beside the official procedure, on one thread of a CPU.

    python benchmarks/diffseg.py [--rounds 3] [--device cuda]

Grouping is what comes after the aggregation: distances from 256 anchors, three rounds of merging, one label a pixel at
512 x 512. The other side does what the official code does, in numpy: for one anchor after the other the differences of
logarithms to all 4096 maps, and from them both divergences. It is not slower than it must be: in float32, the maps'
logarithms taken once for all anchors, buffers used again (the official code takes them 16 times over, in float16 on a
GPU). Both sides must give the same labels, but for pixels where two proposals tie to rounding.

Printed are the ratio of the times, at least 5; and the peak memory over the tensor's 64 MB, the tensor included, at
most 3, measured in fresh processes. The tensor is synthetic: regions of an image whose tokens attend to their like.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from measure import extra_peak, in_fresh_process, in_turn, one_thread
from torch import Tensor

from attention_chains.methods import tokenrank_grid, uniform_grid
from attention_chains.methods.grouping import Merging, label_map, merged

SIDE, PIXELS, FASTER, PEAK = 64, (512, 512), 5, 3
MERGING = Merging()
ANCHORS = {"uniform_grid": uniform_grid.anchors, "tokenrank_grid": tokenrank_grid.anchors}


def synthetic(side: int = SIDE, seed: int = 0) -> Tensor:
    """Attention (n, n) float32 between the tokens of an image of soft regions; rows sum to one."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 12, 6, 6, generator=draw)
    features = F.interpolate(coarse, size=(side, side), mode="bicubic").flatten(2)[0].T  # (n, 12)
    features = 2.2 * F.normalize(features, dim=-1) + 0.15 * torch.randn(features.shape, generator=draw)
    return (features @ features.T).softmax(-1)


def grouped(tensor: Tensor, anchors: Tensor) -> Tensor:
    """Labels (512, 512) by ours."""
    return label_map(merged(tensor, anchors, MERGING), (SIDE, SIDE), PIXELS)


def official(tensor: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Labels (512, 512) by the official procedure."""
    maps = _around(anchors, tensor)
    for _ in range(MERGING.iterations - 1):
        maps = _among(maps)
    best = np.zeros(PIXELS, np.int64)
    highest = np.full(PIXELS, -np.inf, np.float32)
    for index, each in enumerate(maps):
        grown = F.interpolate(torch.from_numpy(each).view(1, 1, SIDE, SIDE), size=PIXELS, mode="bilinear").numpy()[0, 0]
        best[grown > highest] = index
        np.maximum(highest, grown, out=highest)
    return best


def _distances(x: np.ndarray, log_x: np.ndarray, maps: np.ndarray, logs: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Symmetric KL of one map from all others."""
    np.subtract(log_x, logs, out=buffer)
    return (buffer @ x - np.einsum("ij,ij->i", maps, buffer)) / 2


def _around(anchors: np.ndarray, maps: np.ndarray) -> np.ndarray:
    logs, buffer = np.log(maps), np.empty_like(maps)
    near = np.stack([_distances(maps[a], logs[a], maps, logs, buffer) < MERGING.tau for a in anchors])
    return near.astype(maps.dtype) @ maps / near.sum(1, keepdims=True).astype(maps.dtype)


def _among(maps: np.ndarray) -> np.ndarray:
    logs, buffer, merged_before, means = np.log(maps), np.empty_like(maps), set(), []
    for index in range(len(maps)):
        if index in merged_before:
            continue
        near = _distances(maps[index], logs[index], maps, logs, buffer) < MERGING.tau
        merged_before.update(np.flatnonzero(near).tolist())
        means.append(maps[near].mean(0))
    return np.stack(means)


def peak(name: str, path: str) -> None:
    """In a fresh process: print what grouping held at its peak over the tensor, itself included."""
    one_thread()
    warm_up()
    tensor = torch.from_numpy(np.load(path))
    anchors = torch.from_numpy(np.load(Path(path).with_name(f"{name}.npy")))
    extra = extra_peak(partial(grouped, tensor, anchors), "cpu")
    print("nan" if extra is None else 1 + extra / tensor.nbytes)


def warm_up() -> None:
    """What a library sets up once at its first call is no cost of a tensor."""
    small = synthetic(8)
    label_map(merged(small, torch.arange(4)), (8, 8), (64, 64))


def report(name: str, tensor: Tensor, rounds: int, folder: Path) -> None:
    """Print the two ratios for one choice of anchors, and whether both sides agree."""
    anchors = ANCHORS[name](tensor, SIDE, 16)
    host, host_anchors = tensor.cpu(), anchors.cpu()
    works = {
        "ours": partial(grouped, tensor, anchors),
        "official": partial(official, host.numpy(), host_anchors.numpy()),
    }
    labels, same = works["ours"]().cpu(), torch.from_numpy(works["official"]())
    times = in_turn(works, rounds, tensor.device.type)
    ratios = [slow / fast for slow, fast in zip(times["official"], times["ours"], strict=True)]
    spread = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    np.save(folder / f"{name}.npy", host_anchors.numpy())
    alike, segments = (labels == same).float().mean(), int(labels.max()) + 1
    print(
        f"{name}: official / ours = {median(ratios):.1f} (quartiles {spread[0]:.1f}-{spread[2]:.1f}), at least "
        f"{FASTER}; ours {median(times['ours']):.2f} s, {segments} segments, {alike:.4%} of the pixels alike"
    )
    if tensor.device.type == "cpu":
        held = in_fresh_process(__file__, "--peak", name, str(folder / "tensor.npy"))
        print(f"{name}: peak memory / tensor = {float(held):.2f}, at most {PEAK}")


@torch.inference_mode()
def main() -> None:
    """Print two lines for each choice of anchors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        sys.exit(peak(*arguments.peak))
    one_thread()
    tensor = synthetic()
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "tensor.npy", tensor.numpy())
        for name in ANCHORS:
            report(name, tensor.to(arguments.device), arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
