"""Speed, error and memory of the chain core beside what a user would pick instead: `make bench`.

    python benchmarks/chain.py [--device cuda] [--only lambda2 tokenrank pagerank memory fused growth] [--quick]

Both sides alternate in one run, on one thread of a CPU or on a GPU. The figures go to results/benchmarks, one JSON file
a device; the table and the plots beside it are drawn from whatever devices have been measured. `--quick` leaves out
what takes minutes. The synthetic heads are those of the tests, kind after kind, none picked.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import networkx as nx
import numpy as np
import peers
import torch
from measure import extra_peak, in_fresh_process, in_turn, one_thread, ratio, seconds
from render import write_report
from scipy.sparse import csr_matrix
from torch import Tensor
from tqdm import tqdm

from attention_chains.chain import AttentionChain, RunningMix

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "chain"))
from heads import KINDS, heads  # noqa: E402

FOLDER = ROOT / "results" / "benchmarks"
ALPHA = 0.99
TASKS = ((ALPHA, 5e-4), (0.999, 5e-4), (ALPHA, 1e-5))  # alpha, and the L1 error asked for; the last is the default
SLOW = 100  # power steps
REFERENCES = 3  # heads whose lambda2's error is measured above 2000 tokens: all eigenvalues there take half a minute
LAMBDA2_SIZES = ((12, 197), (144, 197), (12, 901), (24, 1280), (8, 4096))
TOKENRANK_SIZES = (197, 901, 1280, 4096)
GROWTH_SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MEAN_HEADS, MEAN_TOKENS, MEAN_MAPS = 24, 1280, 20
FUSED_TOKENS, FUSED_CHANNELS = 16384, 64
SOLVED_TOKENS = 4096  # of the matrix-free chains whose TokenRank and lambda2 are measured
Rows = list[dict[str, object]]


def mixed_heads(count: int, n: int, device: str) -> Tensor:
    """Heads of every well-posed kind in turn, (count, n, n) float32."""
    kinds = [kind for kind in KINDS if kind != "peaked"]  # ill-posed: no two algorithms agree on it
    share = [heads(kinds[i % len(kinds)], n, seed=i)[0] for i in range(count)]
    return torch.stack(share).float().to(device)


def lambda2(device: str, quick: bool) -> Rows:
    """lambda2 of a batch of heads against all eigenvalues, and against ARPACK."""
    rows: Rows = []
    for count, n in tqdm(LAMBDA2_SIZES[:3] if quick else LAMBDA2_SIZES, desc="lambda2", disable=None):
        matrices = mixed_heads(count, n, device)
        chain = AttentionChain(matrices)
        known = matrices[:REFERENCES] if n > 2000 else matrices
        truth = torch.stack([peers.eigvals(m.double() / m.double().sum(-1, keepdim=True)) for m in known])
        works = {"eigvals": peers.eigvals}
        if device == "cpu":  # ARPACK's own default asks for round-off; the other tolerance is ours
            works |= {"ARPACK": peers.arpack, "ARPACK to 1e-4": partial(peers.arpack, tol=1e-4)}
        for peer, theirs in works.items():
            rounds = 1 if peer == "eigvals" and n > 1000 else 9  # all eigenvalues of the largest take minutes
            times = in_turn({"ours": chain.lambda2, peer: partial(theirs, matrices)}, rounds, device)
            rows.append(
                {
                    "operation": f"lambda2 vs {peer}",
                    "size": f"{count} x {n}",
                    "ratio": ratio(times, peer, "ours"),
                    "error": ((chain.lambda2()[: len(known)] - truth).abs() / truth).max().item(),
                    "peer_error": ((theirs(known).to(truth) - truth).abs() / truth).max().item(),
                }
            )
    return rows


def tokenrank(device: str, quick: bool) -> Rows:
    """TokenRank of structured heads, one at a time, against the classical power method: slow and quick ones apart."""
    rows: Rows = []
    for n in tqdm(TOKENRANK_SIZES[:2] if quick else TOKENRANK_SIZES, desc="tokenrank", disable=None):
        groups = by_mixing(n, device)
        alphas = {alpha for alpha, _ in TASKS}
        truth = {name: {alpha: [solved(m, alpha) for m in ms] for alpha in alphas} for name, ms in groups.items()}
        for (name, matrices), (alpha, tol) in product(groups.items(), TASKS):
            chains = [AttentionChain(matrix).teleport(alpha) for matrix in matrices]
            works: dict[str, Callable[[], object]] = {
                "ours": lambda chains=chains, tol=tol: [chain.tokenrank(tol=tol) for chain in chains],
                "power": lambda matrices=matrices, alpha=alpha: [peers.power_method(m, alpha) for m in matrices],
            }
            times = in_turn(works, 5 if n < 2000 else 3, device)
            known = truth[name][alpha]
            ours = [AttentionChain(matrix).teleport(alpha).tokenrank(tol=tol) for matrix in matrices]
            theirs = [peers.power_method(matrix, alpha)[0] for matrix in matrices]
            rows.append(
                {
                    "operation": f"TokenRank at {alpha:g} to {tol:g} vs power method, {name} heads",
                    "size": str(n),
                    "heads": len(matrices),
                    "ratio": ratio(times, "power", "ours"),
                    "error": largest_off(ours, known),
                    "peer_error": largest_off(theirs, known),
                }
            )
    return rows


def by_mixing(n: int, device: str) -> dict[str, list[Tensor]]:
    """Heads of the kinds with structure: those that take the power method SLOW steps or more, and the others."""
    found: dict[str, list[Tensor]] = {"slowly mixing": [], "quickly mixing": []}
    for kind in ("clustered", "local", "shift", "cycle"):
        for seed in range(8):
            head = heads(kind, n, seed)[0].to(device)
            slow = peers.power_method(head, ALPHA)[1] >= SLOW
            found["slowly mixing" if slow else "quickly mixing"].append(head)
    return {name: matrices for name, matrices in found.items() if matrices}


def largest_off(ranks: list[Tensor], known: list[Tensor]) -> float:
    """Return the largest L1 error."""
    return max((rank.double() - right).abs().sum().item() for rank, right in zip(ranks, known, strict=True))


def solved(matrix: Tensor, alpha: float) -> Tensor:
    """The stationary vector by float64 LU."""
    chain = matrix.double() / matrix.double().sum(-1, keepdim=True)
    n = len(chain)
    left = torch.eye(n, dtype=chain.dtype, device=chain.device) - alpha * chain.mT
    return torch.linalg.solve(left, chain.new_full((n,), (1 - alpha) / n))


def pagerank(device: str, quick: bool) -> Rows:
    """TokenRank at n = 901 against PageRank libraries; building their graphs is not counted."""
    if device != "cpu":
        return []
    matrix = mixed_heads(1, 901, device)[0]
    chain = AttentionChain(matrix).teleport(ALPHA)
    sparse = csr_matrix(matrix.double().numpy())
    works = {
        "ours": chain.tokenrank,
        "networkx": partial(
            peers.networkx_pagerank, nx.from_numpy_array(matrix.numpy(), create_using=nx.DiGraph), ALPHA
        ),
        "fast-pagerank": partial(peers.fast_pagerank, sparse, ALPHA),
        "scikit-network": partial(peers.scikit_network, sparse, ALPHA),
    }
    times, truth = in_turn(works, 3, device), solved(matrix, ALPHA)
    error = (chain.tokenrank().double() - truth).abs().sum().item()
    return [
        {
            "operation": f"TokenRank vs {peer}",
            "size": "901",
            "ratio": ratio(times, peer, "ours"),
            "error": error,
            "peer_error": float(np.abs(np.asarray(works[peer]()) - truth.numpy()).sum()),
        }
        for peer in list(works)[1:]
    ]


def head_mean(device: str, weights: str) -> int | None:
    """Bytes beyond one layer's heads for the mean over the heads of 20 maps."""

    def averaged(matrices: Tensor) -> None:
        mean = RunningMix(weights)
        for _ in range(MEAN_MAPS):
            mean.add(AttentionChain(matrices))
        mean.chain()

    averaged(mixed_heads(2, 600, device))  # whatever is only loaded when first used
    matrices = mixed_heads(MEAN_HEADS, MEAN_TOKENS, device)
    return extra_peak(partial(averaged, matrices), device)


def queries_and_keys(n: int, device: str) -> tuple[Tensor, Tensor]:
    """Return q and k of one head, (n, 64) float32."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(2, n, FUSED_CHANNELS, device=device, generator=generator).unbind()


def bounce(n: int, device: str, storage: str) -> Tensor:
    """Build the chain of q and k and bounce once from everywhere."""
    q, k = queries_and_keys(n, device)
    return AttentionChain.from_qk(q, k, storage=storage).bounce("uniform")


def bounce_peak(device: str, n: int, storage: str) -> int | None:
    """Bytes beyond q and k of building the chain and bouncing once."""
    bounce(64, device, storage)  # whatever is only loaded when first used
    q, k = queries_and_keys(n, device)
    return extra_peak(lambda: AttentionChain.from_qk(q, k, storage=storage).bounce("uniform"), device)


def peak(device: str, *what: str) -> int | None:
    """Measure memory where nothing was allocated before."""
    line = in_fresh_process(__file__, "--device", device, "--peak", *what)
    return None if line == "None" else int(line)


def memory(device: str, quick: bool) -> Rows:
    """Peak memory of the streaming head mean, and of a matrix-free bounce with its time over the dense one's."""
    square = 4 * MEAN_TOKENS**2
    rows: Rows = []
    for weights in ("uniform", "lambda2"):
        held = peak(device, "head_mean", weights)
        row = {"operation": f"{weights} head mean, extra memory / n^2 floats"}
        size = {"size": f"{MEAN_MAPS} maps of {MEAN_HEADS} x {MEAN_TOKENS}"}
        rows.append(row | size | {"ratio": None if held is None else held / square})
    n = 4096 if quick else FUSED_TOKENS
    works = {storage: partial(bounce, n, device, storage) for storage in ("fused", "dense")}
    times = in_turn(works, 3, device)
    exact, fused = works["dense"](), works["fused"]()
    error = ((fused - exact).abs().max() / exact.max()).item()
    held = peak(device, "bounce", str(n), "fused")
    common = {"size": str(n), "error": error}
    rows.append({"operation": "matrix-free bounce, time / dense", "ratio": ratio(times, "fused", "dense")} | common)
    rows.append({"operation": "matrix-free bounce, extra MB", "ratio": None if held is None else held / 1e6} | common)
    return rows


def fused(device: str, quick: bool) -> Rows:
    """TokenRank and lambda2 from q and k: matrix-free, over forming the matrix first; of a random and of a local head.

    The error is the difference between the two answers, of a TokenRank in L1.
    """
    n = SOLVED_TOKENS // 4 if quick else SOLVED_TOKENS
    rows: Rows = []
    for name, (q, k) in {"random": queries_and_keys(n, device), "local": positions(n, device)}.items():
        methods = {
            "TokenRank at 0.99 to 0.0005": lambda chain: chain.teleport(ALPHA).tokenrank(tol=5e-4).double(),
            "lambda2": lambda chain: chain.lambda2().double(),
        }
        for what, method in methods.items():
            works = {
                storage: lambda storage=storage, method=method, q=q, k=k: method(
                    AttentionChain.from_qk(q, k, storage=storage)
                )
                for storage in ("fused", "dense")
            }
            times = in_turn(works, 3, device)
            off = (works["fused"]() - works["dense"]()).abs().sum().item()
            row = {"operation": f"matrix-free {what}, time / dense, {name} head", "size": str(n)}
            rows.append(row | {"ratio": ratio(times, "fused", "dense"), "error": off})
    return rows


def positions(n: int, device: str) -> tuple[Tensor, Tensor]:
    """Return q and k, (n, 64), of a head that attends to nearby positions, by sines and cosines of random frequencies.

    Its lambda2 is 0.998.
    """
    place = torch.arange(n, dtype=torch.float64).unsqueeze(1) / n
    frequencies = 12 * torch.randn(FUSED_CHANNELS // 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    waves = torch.cat([torch.cos(place * frequencies), torch.sin(place * frequencies)], 1)
    both = (2 * waves).float().to(device)  # the logits q k^T / 8 are 16 at most
    return both, both


def growth(device: str, quick: bool) -> Rows:
    """Time and extra memory of one bounce against n, dense and matrix-free."""
    rows: Rows = []
    for n in tqdm(GROWTH_SIZES[:6] if quick else GROWTH_SIZES, desc="growth", disable=None):
        for storage in ("dense", "fused"):
            bounce(n, device, storage)
            taken = min(seconds(partial(bounce, n, device, storage), device) for _ in range(3))
            rows.append(
                {"storage": storage, "n": n, "seconds": taken, "bytes": peak(device, "bounce", str(n), storage)}
            )
    return rows


SECTIONS = {
    "lambda2": lambda2,
    "tokenrank": tokenrank,
    "pagerank": pagerank,
    "memory": memory,
    "fused": fused,
    "growth": growth,
}


def machine(device: str) -> str:
    """Name what was measured on."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"one thread of {platform.machine()} ({platform.system()}), torch {torch.__version__}"


def main() -> None:
    """Measure, keep the figures, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=tuple(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="small sizes only; nothing is kept")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)  # a fresh process of `peak`
    options = parser.parse_args()
    one_thread()
    if options.peak:
        name, *rest = options.peak
        if name == "head_mean":
            print(head_mean(options.device, rest[0]))
        else:
            print(bounce_peak(options.device, int(rest[0]), rest[1]))
        return
    path = FOLDER / f"chain-{options.device}.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        figures[name] = SECTIONS[name](options.device, options.quick)
        for row in figures[name]:
            print(
                "  ".join(
                    f"{key}={value:.3g}" if isinstance(value, float) else f"{value}" for key, value in row.items()
                )
            )
    if not options.quick:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures | {"machine": machine(options.device)}, indent=2) + "\n")
        write_report(FOLDER)


if __name__ == "__main__":
    main()
