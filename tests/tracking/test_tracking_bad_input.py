"""Whatever happens to the tracker is one warning; the run goes on."""

import pytest

from attention_chains import tracking
from attention_chains.tracking import Tracker, WandbTracker, open_tracker


class FullDisk:
    """A W&B run on a disk that is full."""

    def log(self, metrics, step):
        raise OSError(28, "No space left on device")

    def finish(self):
        raise AssertionError("a tracker that failed is left alone")


def test_failure_while_logging_is_one_warning(caplog):
    tracker = WandbTracker(FullDisk())
    tracker.log({"AP": 0.5}, 1)
    tracker.log({"AP": 0.6}, 2)
    tracker.finish()
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert "the run goes on without it" in caplog.text


def test_failure_while_opening_gives_a_tracker_that_does_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    tracker = open_tracker("wandb", "p", None, "offline", tmp_path / "file" / "run", "r", {})
    assert type(tracker) is Tracker
    assert [record.name for record in caplog.records].count(tracking.__name__) == 1


def test_ctrl_c_is_not_swallowed(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_tracker("wandb", "p", None, "offline", tmp_path, "r", {})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}'])
def test_unreadable_id_file_gives_a_new_id(tmp_path, content):
    path = tmp_path / "tracking.json"
    path.write_text(content)
    assert tracking._run_id(path) == tracking._run_id(path) != ""


def test_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="logger=wandb or logger=none"):
        open_tracker("tensorboard", "p", None, "auto", tmp_path, "r", {})
