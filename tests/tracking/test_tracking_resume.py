"""A resumed run keeps its W&B id; everything stays in the run folder; nothing is asked, printed or sent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from attention_chains import tracking
from attention_chains.tracking import Tracker, open_tracker

SOURCE = Path(tracking.__file__).parents[1]


PROGRAM = """
import sys
from attention_chains.tracking import open_tracker
tracker = open_tracker("wandb", "attention-chains", None, sys.argv[1], sys.argv[2], "segmentation-flux", {"n": 2})
tracker.log({"AP": 0.5}, step=1)
tracker.image("maps", sys.argv[3])
print(sys.modules["wandb"].run.id)
tracker.finish()
"""


def opened(folder: Path, mode: str = "auto") -> Tracker:
    return open_tracker("wandb", "attention-chains", None, mode, folder, "segmentation-flux", {"n": 2})


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The real package, for a user who never logged in, with no server to reach."""
    package = pytest.importorskip("wandb")
    package.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield package
    package.teardown()


def test_resumed_run_keeps_its_id_its_files_in_its_folder_and_the_console_quiet(wandb, tmp_path):
    folder, picture = tmp_path / "run", tmp_path / "maps.png"
    Image.new("RGB", (8, 8)).save(picture)
    first, second = (run_python(PROGRAM, mode, folder, picture) for mode in ("auto", "offline"))
    run_id = json.loads((folder / "tracking.json").read_text())["wandb_id"]
    assert (first.stdout, first.stderr) == (second.stdout, second.stderr) == (f"{run_id}\n", "")
    # Of two runs that begin in one second, W&B gives the later one's folder a number behind the id.
    assert len(list((folder / "wandb").glob(f"offline-run-*-{run_id}*/files/media/images/maps_1_*.png"))) == 2
    assert os.listdir(tmp_path / "elsewhere") == []


def test_unreachable_server_tracks_the_same_run_offline(wandb, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(tracking, "INIT_SECONDS", 0.5)
    tracker = opened(tmp_path / "run")
    assert wandb.run.settings.mode == "offline"
    assert wandb.run.id == json.loads((tmp_path / "run" / "tracking.json").read_text())["wandb_id"]
    tracker.finish()
    said = [record.getMessage() for record in caplog.records if record.name == tracking.__name__]
    assert len(said) == 1
    assert said[0].startswith("W&B cannot be reached")


@pytest.mark.parametrize(
    ("mode", "environment", "key", "started"),
    [
        ("auto", {}, False, ["offline"]),
        ("auto", {}, True, ["online"]),
        ("auto", {"WANDB_MODE": "offline"}, True, ["offline"]),
        ("auto", {"WANDB_MODE": "online"}, False, ["offline"]),
        ("online", {}, False, ["offline"]),
        ("online", {}, True, ["online"]),
        ("offline", {"WANDB_MODE": "online"}, True, ["offline"]),
    ],
)
def test_mode_is_online_only_with_credentials(tmp_path, monkeypatch, mode, environment, key, started):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    modes = []
    monkeypatch.setattr(tracking, "_has_credentials", lambda: key)
    monkeypatch.setattr(tracking, "_start", lambda mode, folder, about: modes.append(mode))
    opened(tmp_path, mode)
    assert modes == started


def test_credentials_are_found_where_wandb_login_puts_them_and_not_talked_about(wandb, tmp_path):
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "netrc").write_text(f"machine 127.0.0.1:9 login user password {'a' * 40}\n")
    (tmp_path / "home" / "netrc").chmod(0o600)
    done = run_python("from attention_chains import tracking; print(tracking._has_credentials())")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_none_imports_no_wandb_and_writes_nothing(tmp_path):
    program = (
        "import sys; from attention_chains.tracking import open_tracker\n"
        "tracker = open_tracker('none', 'p', None, 'auto', sys.argv[1], 'r', {})\n"
        "tracker.log({'AP': 0.5}, 1); tracker.image('maps', 'missing.png'); tracker.finish()\n"
        "print({'wandb', 'torch'} & set(sys.modules))"
    )
    done = run_python(program, tmp_path / "run")
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert os.listdir(tmp_path) == []
