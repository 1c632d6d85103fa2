"""What a user can act on ends in one sentence and an exit status; nothing is left behind."""

from __future__ import annotations

import pytest


def test_a_run_leaves_nothing_but_what_the_task_wrote(command, cwd):
    assert command().returncode == 0
    assert [str(path.relative_to(cwd)) for path in cwd.rglob("*")] == ["results", "results/shard-0-seed-0"]


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["run", "sweep"])
@pytest.mark.parametrize("override", ["method=outgoign", "method.m=3", "method.n=two", "method.n=-1"])
def test_a_bad_configuration_is_one_sentence_and_status_2_and_nothing_runs(command, cwd, mode, override):
    done = command(*mode, "shard.index=0", override)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and override.split("=")[0] in done.stderr
    assert [path.name for path in cwd.rglob("*")] == ["results"]


def test_one_bad_value_among_those_of_a_sweep_stops_it_before_its_first_job(command, cwd):
    done = command("-m", "method.n=1,2,-3")
    assert (done.returncode, done.stderr) == (2, "method.n is -3, but it must be at least 0 (bounces).\n")
    assert [path.name for path in cwd.rglob("*")] == ["results"]


def test_a_typed_error_of_a_run_is_its_sentence_and_status_1(command):
    done = command("seed=1")
    assert (done.returncode, done.stderr) == (1, "The disk is full; the finished samples are kept.\n")


def test_an_interrupted_run_says_that_the_same_command_resumes_and_has_status_130(command):
    done = command("seed=2")
    assert done.returncode == 130
    assert done.stderr == "Interrupted: the finished samples are kept; the same command resumes.\n"


def test_an_error_that_is_a_bug_keeps_its_traceback(command):
    done = command("seed=4")
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError: a bug" in done.stderr


@pytest.mark.parametrize("arguments", [["seed=1"], ["method=outgoign"]])
def test_a_traceback_is_shown_when_it_is_asked_for(command, arguments):
    done = command(*arguments, HYDRA_FULL_ERROR="1")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_a_results_folder_that_is_a_file_is_named(command, cwd):
    (cwd / "taken").write_text("")
    done = command("-m", "seed=0", "out=taken")
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot write taken") and "out=" in done.stderr and "Traceback" not in done.stderr
