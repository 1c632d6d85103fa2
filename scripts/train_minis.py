"""Train a bundled miniature from nothing: `python scripts/train_minis.py flux`. Killed, the same command resumes."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

RECIPES = ("flux", "sd15", "vit", "clip", "dinov1", "dinov2")


def main() -> None:
    """Read the command line and run one recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RECIPES, help="which miniature")
    parser.add_argument("--work", type=Path, default=None, help="checkpoints and cached data (results/training/NAME)")
    parser.add_argument("--output", type=Path, default=None, help="where the finished model goes (the bundled folder)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    work = options.work or ROOT / "results" / "training" / options.name
    output = options.output or ROOT / "src" / "attention_chains" / "models" / "minis" / options.name
    importlib.import_module(f"minis.{options.name}").build(work, output, device=options.device)


if __name__ == "__main__":
    main()
