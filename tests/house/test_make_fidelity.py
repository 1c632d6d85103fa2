"""The Makefile explains itself, sets up before it runs, and takes an interpreter only if it works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEED_NO_SETUP = {"help", "clean"}


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=outer | environment, capture_output=True, text=True)


def targets() -> list[str]:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M).group(1)
    for name in ("TABLES", "FIGURES"):
        phony = phony.replace(f"$({name})", re.search(rf"^{name} := (.*)$", text, re.M).group(1))
    return phony.split()


def path_with(folder: Path, **programs: str) -> str:
    """A PATH that holds the tools of a shell and the given scripts, and nothing else."""
    for tool in ("bash", "touch", "mkdir", "sh", "make"):
        (folder / tool).symlink_to(shutil.which(tool))
    for name, script in programs.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return str(folder)


def test_make_alone_lists_every_target_with_what_it_does():
    listed = re.findall(r"^  make (\w+) +\S.*$", make().stdout, re.M)
    assert sorted(listed) == sorted(targets())


@pytest.mark.parametrize("target", sorted(set(targets()) - NEED_NO_SETUP))
def test_a_target_sets_up_first(target, tmp_path):
    assert "install" in make("--dry-run", target, f"VENV={tmp_path}").stdout


def test_a_finished_setup_is_not_done_again(tmp_path):
    (tmp_path / ".installed").touch()
    done = make("setup", f"VENV={tmp_path}")
    assert done.returncode == 0 and "install" not in done.stdout


def test_uv_is_used_where_it_is_installed(tmp_path):
    uv = '#!/bin/sh\necho "uv $*"\nmkdir -p "$VENV_OF_TEST"\n'
    path = path_with(tmp_path, uv=uv)
    done = make("setup", f"VENV={tmp_path / 'venv'}", PATH=path, VENV_OF_TEST=str(tmp_path / "venv"))
    assert done.returncode == 0, done.stderr
    assert "uv venv" in done.stdout and "--constraints constraints.txt --editable .[dev]" in done.stdout


def test_a_python_that_does_not_run_is_passed_over(tmp_path):
    broken, works = "#!/bin/sh\nexit 127\n", '#!/bin/sh\nmkdir -p "$VENV_OF_TEST/bin"; echo "3.12 $*"\n'
    path = path_with(tmp_path, **{"python3.13": broken, "python3.12": works})
    done = make("setup", f"VENV={tmp_path / 'venv'}", PATH=path, VENV_OF_TEST=str(tmp_path / "venv"))
    assert f"3.12 -m venv --clear {tmp_path / 'venv'}" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["PYTHON=/no/such/python3.12"]])
def test_without_a_python_the_setup_says_what_to_do(arguments, tmp_path):
    done = make("setup", f"VENV={tmp_path / 'venv'}", *arguments, PATH=path_with(tmp_path))
    assert done.returncode != 0 and "make setup PYTHON=" in done.stderr
