"""What is declared, what is pinned and what is imported agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import attention_chains

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
PIN_LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in PIN_LINES}


@pytest.mark.parametrize("line", PIN_LINES)
def test_a_constraint_is_one_public_version_and_names_no_address(line):
    assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9]+(\.[0-9]+)*((a|b|rc|\.post)[0-9]+)?", line)


@pytest.mark.parametrize("requirement", RUNTIME + DEV, ids=str)
def test_every_declared_package_has_a_lower_bound_and_a_pin_within_it(requirement):
    assert any(each.operator == ">=" for each in requirement.specifier)
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)], prereleases=True)


def test_every_import_of_the_package_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in RUNTIME}
    providers = importlib.metadata.packages_distributions()
    for path in [ROOT / "run.py", *ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/**/*.py")]:
        for name in third_party_imports(path):
            assert {canonicalize_name(each) for each in providers.get(name, [name])} & declared, f"{path}: {name}"


def third_party_imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    own = {"attention_chains"} | {each.stem for each in (ROOT / "scripts").iterdir()}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - own


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == attention_chains.__version__
    assert citation["preferred-citation"]["title"] == "Attention (as Discrete-Time Markov) Chains"


@pytest.mark.parametrize("name", attention_chains.__all__)
def test_every_public_name_is_there_when_asked_for(name):
    assert getattr(attention_chains, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'bounce'"):
        _ = attention_chains.bounce


@pytest.mark.parametrize("name", attention_chains.errors.__all__)
def test_every_typed_error_is_an_exception_of_its_room(name):
    error = getattr(attention_chains.errors, name)
    assert issubclass(error, Exception) and error.__module__.endswith(".errors")
