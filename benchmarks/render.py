"""Draws what the chain benchmark measured: results/benchmarks/chain.md, chain-speed.png and chain-growth.png."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from attention_chains.report.figure import save

DEVICES = ("cpu", "cuda")
# What was asked of the ratio: at least so much, on (cpu, cuda); a memory or time is asked to be at most so much.
AT_LEAST = {
    ("lambda2 vs eigvals", "12 x 197"): (5, None),
    ("lambda2 vs eigvals", "144 x 197"): (8, None),
    ("lambda2 vs eigvals", "12 x 901"): (18, None),
    ("lambda2 vs eigvals", "24 x 1280"): (27, 50),
    ("lambda2 vs eigvals", "8 x 4096"): (60, None),
    ("lambda2 vs ARPACK", "12 x 901"): (1, None),
    ("lambda2 vs ARPACK", "24 x 1280"): (1, None),
    ("lambda2 vs ARPACK", "8 x 4096"): (1, None),
    **{
        (f"TokenRank at {alpha} to 0.0005 vs power method, slowly mixing heads", size): asked
        for alpha in ("0.99", "0.999")
        for size, asked in {"197": (1.8, None), "901": (5, 5), "1280": (6, 5), "4096": (9, 5)}.items()
    },
    ("TokenRank vs networkx", "901"): (100, None),
    ("TokenRank vs fast-pagerank", "901"): (3, None),
    ("TokenRank vs scikit-network", "901"): (2, None),
}
AT_MOST = {
    "uniform head mean, extra memory / n^2 floats": (2, 2),
    "lambda2 head mean, extra memory / n^2 floats": (2, 2),
    "matrix-free bounce, time / dense": (3, 1.5),
    "matrix-free bounce, extra MB": (40, None),
}
SECTIONS = ("lambda2", "tokenrank", "pagerank", "memory", "fused")


def write_report(folder: Path) -> None:
    """Draw the table and the plots from the figures of every device that was measured."""
    measured = {}
    for device in DEVICES:
        path = folder / f"chain-{device}.json"
        measured[device] = json.loads(path.read_text()) if path.exists() else {}
    (folder / "chain.md").write_text(table(measured))
    save(speed_plot(measured), folder / "chain-speed.png")
    if measured["cpu"].get("growth"):
        save(growth_plot(measured["cpu"]["growth"]), folder / "chain-growth.png")


def table(measured: dict[str, dict]) -> str:
    """Markdown: one line an operation and size; the columns of a device that was not measured stay empty."""
    found = {device: _rows(figures) for device, figures in measured.items()}
    lines = [
        "| operation | size | asked | CPU | error | peer's error | asked | GPU | error |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for operation, size in dict.fromkeys([*found["cpu"], *found["cuda"]]):
        cpu, cuda = (found[device].get((operation, size), {}) for device in DEVICES)
        cells = [operation, size, _asked(operation, size, 0), _ratio(cpu), _error(cpu, "error")]
        cells += [_error(cpu, "peer_error"), _asked(operation, size, 1), _ratio(cuda), _error(cuda, "error")]
        lines.append("| " + " | ".join(cells) + " |")
    machines = [f"{device.upper()}: {figures['machine']}." for device, figures in measured.items() if figures]
    return "\n".join(lines) + "\n\n" + " ".join(machines) + "\n"


def speed_plot(measured: dict[str, dict]) -> Figure:
    """Bars on a logarithmic scale: how many times faster, where something was asked, with that as a black tick."""
    rows = {key: row for key, row in _rows(measured["cpu"]).items() if key in AT_LEAST}
    figure = Figure(figsize=(8, 0.25 * len(rows) + 0.8), layout="constrained")
    axis = figure.subplots()
    names = [f"{operation}, {size}" for operation, size in rows]
    axis.barh(names, [row["ratio"] for row in rows.values()], color="#4477aa")
    for place, key in enumerate(rows):
        axis.plot([AT_LEAST[key][0]] * 2, [place - 0.4, place + 0.4], color="black")
    axis.set_xscale("log")
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xlabel("times faster (black: asked)")
    return figure


def growth_plot(rows: list[dict]) -> Figure:
    """Time and extra memory of one bounce against the number of tokens."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axis, column, label, scale in zip(
        figure.subplots(1, 2), ("seconds", "bytes"), ("seconds", "MB beyond q and k"), (1, 1e-6), strict=True
    ):
        for storage, name in (("dense", "dense"), ("fused", "matrix-free")):
            points = [(row["n"], row[column] * scale) for row in rows if row["storage"] == storage and row[column]]
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axis.legend()
    figure.suptitle("One bounce from q and k, one head of 64 channels")
    return figure


def _rows(figures: dict) -> dict[tuple[str, str], dict]:
    rows = [row for section in SECTIONS for row in figures.get(section, [])]
    return {(row["operation"], row["size"]): row for row in rows}


def _asked(operation: str, size: str, device: int) -> str:
    least, most = AT_LEAST.get((operation, size)), AT_MOST.get(operation)
    if least and least[device]:
        return f">= {least[device]:g}x"
    return f"<= {most[device]:g}" if most and most[device] else ""


def _ratio(row: dict) -> str:
    value = row.get("ratio")
    if value is None:
        return ""
    if row["operation"] in AT_MOST or "time / dense" in row["operation"]:  # a share or a size, not times faster
        return f"{value:.2f}"
    return f"**{value:.2f}x**" if value < 2 else f"**{value:.1f}x**"


def _error(row: dict, name: str) -> str:
    return f"{row[name]:.0e}" if row.get(name) is not None else ""
