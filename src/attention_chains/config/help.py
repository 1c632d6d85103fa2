"""The text of `python run.py --help`, read off the schema and the first comment line of every file in configs/."""

from __future__ import annotations

import textwrap
from pathlib import Path

from omegaconf import DictConfig

from attention_chains.config.checks import values
from attention_chains.config.resolve import resolve

WIDTH = 30  # of the left column
TERMINAL = 120  # columns that the whole must fit into


def describe_groups(configs: Path) -> str:
    """Every configuration group with its options, and what each option is."""
    blocks = []
    for group in sorted(path for path in configs.iterdir() if path.is_dir()):
        options = sorted(path for path in group.glob("*.yaml") if not path.name.startswith("_"))
        blocks += [_entry(f"{group.name}={path.stem}", first_comment(path)) for path in options]
    return "\n".join(blocks)


def first_comment(path: Path) -> str:
    """The first comment line of a YAML file that is not a directive to Hydra."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def describe_keys(config: DictConfig) -> str:
    """Every key with its present value and its meaning; `null` is none: not used, or decided by the run."""
    lines = []
    for path, value, each in values(resolve(config)):
        if not path.startswith("methods.") and each.metadata.get("meaning"):
            choices = f" ({', '.join(each.metadata['choices'])})" if "choices" in each.metadata else ""
            left = f"{path}={'null' if value is None else value}"
            lines.append(_entry(left, f"{each.metadata['meaning']}{choices}"))
    return "\n".join(lines)


def _entry(left: str, right: str) -> str:
    """A name and what it is, in two columns; below each other where the name is long."""
    gap = " " * (WIDTH + 2)
    text = textwrap.fill(right, TERMINAL, initial_indent=gap, subsequent_indent=gap)
    return f"  {left:<{WIDTH}}{text[len(gap) :]}" if len(left) < WIDTH else f"  {left}\n{text}"
