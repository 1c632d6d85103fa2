"""Experiment tracking for the runners: metrics and pictures of a run, sent nowhere or to Weights & Biases.

A tracker is a convenience: whatever happens to it is one warning, and the run goes on.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

INIT_SECONDS = 20.0
FINISH_SECONDS = 60.0


class Tracker:
    """Takes what a run reports and drops it (`logger=none`)."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the values of `metrics` at `step`, which must not decrease."""

    def image(self, key: str, path: str | Path) -> None:
        """Take the picture in the file `path`, at the last step."""

    def finish(self) -> None:
        """Close the tracker; nothing may follow."""


class WandbTracker(Tracker):
    """Hands everything to an open W&B run, until that fails for the first time."""

    def __init__(self, run: wandb.Run) -> None:
        self._run: wandb.Run | None = run
        self._step = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the values of `metrics` at `step`, which must not decrease."""
        self._step = step
        self._attempt(lambda run: run.log(dict(metrics), step=step))

    def image(self, key: str, path: str | Path) -> None:
        """Take the picture in the file `path`, at the last step."""
        self._attempt(lambda run: run.log({key: _picture(path)}, step=self._step))

    def finish(self) -> None:
        """Close the W&B run; waits at most a minute for its upload."""
        self._attempt(lambda run: run.finish())
        self._run = None

    def _attempt(self, action: Callable[[wandb.Run], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            _warn(error)


def open_tracker(
    name: str,
    project: str,
    entity: str | None,
    mode: str,
    folder: str | Path,
    run_name: str,
    config: Mapping[str, Any],
) -> Tracker:
    """Tracker of the run in `folder`; a resumed run goes on under its W&B id.

    Parameters
    ----------
    name : {"none", "wandb"}
        Which tracker.
    project, entity : str
        Where W&B files the run; entity None is the user's default.
    mode : {"auto", "online", "offline"}
        "auto" follows WANDB_MODE where it is set, else is online when W&B finds credentials and offline when not.
    folder : str or Path
        Run folder: `tracking.json` (the id) and `wandb/` are kept in it. Processes that run at the same time (shards)
        need a folder each, since a W&B id takes one writer.
    run_name : str
        Name shown by W&B.
    config : Mapping
        Resolved config, shown beside the run.

    Returns
    -------
    Tracker
        One that does nothing where W&B could not be opened, which is said in one warning.

    Raises
    ------
    ValueError
        Unknown `name`.
    """
    if name == "none":
        return Tracker()
    if name != "wandb":
        raise ValueError(f"There is no tracker {name!r}: choose logger=wandb or logger=none.")
    about = {"project": project, "entity": entity, "name": run_name, "config": dict(config)}
    try:
        return WandbTracker(_open_wandb(mode, Path(folder), about))
    except Exception as error:
        _warn(error)
        return Tracker()


def _open_wandb(mode: str, folder: Path, about: Mapping[str, Any]) -> wandb.Run:
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "auto")
    if mode not in ("auto", "online"):
        return _start(mode, folder, about)
    try:
        if _has_credentials():
            return _start("online", folder, about)
        if mode == "online":
            log.warning("W&B has no credentials (`wandb login` stores them): this run is tracked offline.")
    except Exception as error:
        log.warning("W&B cannot be reached (%s): this run is tracked offline.", _first_line(error))
        _drop_attempt()
    return _start("offline", folder, about)


def _has_credentials() -> bool:
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return wandb.login(prompt=False, verify=False)


def _drop_attempt() -> None:
    """Stop W&B's own process, which keeps the id of a run that could not be opened."""
    import wandb

    wandb.teardown()


def _start(mode: str, folder: Path, about: Mapping[str, Any]) -> wandb.Run:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS)
    return wandb.init(
        **about,
        mode=mode,
        dir=folder,
        id=_run_id(folder / "tracking.json"),
        resume="allow",
        reinit="finish_previous",
        settings=quiet,
    )


def _run_id(path: Path) -> str:
    """Id in `path`; where there is none, a new one that is written there first."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["wandb_id"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _new_run_id(path)


def _new_run_id(path: Path) -> str:
    run_id = uuid.uuid4().hex[:8]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"wandb_id": run_id}) + "\n", encoding="utf-8")
    draft.replace(path)
    return run_id


def _picture(path: str | Path) -> wandb.Image:
    import wandb

    return wandb.Image(str(path))


def _warn(error: Exception) -> None:
    log.warning("W&B tracks this run no further (%s): the run goes on without it.", _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
