"""The text of `python run.py --help`, read off the schema and the first comment line of every file in configs/."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from attention_chains.config.checks import values
from attention_chains.config.resolve import resolve

WIDTH = 30  # of the left column


def describe_groups(configs: Path) -> str:
    """Every configuration group with its options, and what each option is."""
    blocks = []
    for group in sorted(path for path in configs.iterdir() if path.is_dir()):
        options = sorted(path for path in group.glob("*.yaml") if not path.name.startswith("_"))
        blocks += [f"  {group.name + '=' + path.stem:<{WIDTH}}{first_comment(path)}" for path in options]
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
            gap = " " * (WIDTH - len(left)) if len(left) < WIDTH else "\n" + " " * (WIDTH + 2)
            lines.append(f"  {left}{gap}{each.metadata['meaning']}{choices}")
    return "\n".join(lines)
