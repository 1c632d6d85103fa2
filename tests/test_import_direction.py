"""Imports point one way: chain <- capture <- models <- methods <- tasks <- report and run.py; the rest are leaves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "attention_chains"

LEAVES = {"metrics", "data", "records"}
SERVICES = {"config", "tracking"}
MAY_IMPORT = {
    "__init__": {"chain", "capture", "errors"},
    "errors": {"chain", "capture", "models", "methods", "metrics", "data", "config", "records"},
    "chain": set(),
    "capture": {"chain"},
    "models": {"chain", "capture"} | LEAVES,
    "methods": {"chain", "capture", "models"} | LEAVES,
    "tasks": {"chain", "capture", "models", "methods", "launch"} | LEAVES | SERVICES,
    "report": {"chain", "capture", "models", "methods", "tasks", "launch"} | LEAVES | SERVICES,
    "metrics": set(),
    "data": set(),
    "records": set(),
    "config": set(),
    "tracking": set(),
    "launch": {"config"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The folder below the package, or the name of a file that stands alone."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    package = ["attention_chains", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    return {parts[1] for parts in names if parts[0] == "attention_chains" and len(parts) > 1} & set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is a new room; say here what it may import"
    assert rooms_imported(path) <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("chain/*.py")), ids=lambda path: path.name)
def test_the_chain_needs_torch_alone(path: Path) -> None:
    packages = {name.split(".")[0] for name in imported(path)}
    assert packages - set(sys.stdlib_module_names) <= {"torch", "attention_chains"}


def test_importing_the_package_and_its_configuration_leaves_torch_out() -> None:
    code = "import sys, attention_chains, attention_chains.errors, attention_chains.config, attention_chains.launch;"
    subprocess.run([sys.executable, "-c", f"{code} sys.exit('torch' in sys.modules)"], check=True)


def test_the_check_sees_an_import_that_points_the_wrong_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "chain").mkdir()
    wrong = tmp_path / "chain" / "wrong.py"
    wrong.write_text("def late():\n    from ..capture import tape\n    from attention_chains import tasks\n")
    assert rooms_imported(wrong) == {"capture", "tasks"}
