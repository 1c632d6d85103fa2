"""Which module is running: what an attention call is labelled with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from attention_chains.capture.layers import module_paths


class RunningModules(threading.local):
    """Paths of the modules that are running, the innermost last; each thread has its own."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    @property
    def innermost(self) -> str | None:
        """Path of the module whose code runs now; None outside the model."""
        return self._paths[-1] if self._paths else None

    def enter(self, path: str, *_: Any) -> None:
        """Forward pre-hook of the module at `path`."""
        self._paths.append(path)

    def leave(self, path: str, *_: Any) -> None:
        """Forward hook of the module at `path`; also drops what an interrupted module inside it left behind."""
        if path in self._paths:
            while self._paths.pop() != path:
                pass


@contextmanager
def running_modules(model: nn.Module) -> Iterator[RunningModules]:
    """Follow the forward pass of `model` with hooks, which are gone when the context closes.

    Yields
    ------
    RunningModules
        Kept up to date while the model runs.
    """
    running = RunningModules()
    with ExitStack() as hooks:
        for path, module in module_paths(model):
            hooks.enter_context(module.register_forward_pre_hook(partial(running.enter, path), prepend=True))
            hooks.enter_context(module.register_forward_hook(partial(running.leave, path), always_call=True))
        yield running
