"""What a table's column means: metrics over data sets, computed from per-image sufficient statistics.

Every task has a module of its name here, with `METRICS`, `row(stats)` (one image's statistics of one method as a
vector) and `summarise(sums, n)` (the metrics, from sums of such vectors over n images).
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from attention_chains.metrics.errors import MetricError

__all__ = ["MetricError", "of"]


def of(task: str) -> ModuleType:
    """The metrics of a task: a module with `METRICS`, `row` and `summarise`.

    Raises
    ------
    MetricError
        No module measures such a task.
    """
    name = f"{__name__}.{task}"
    module = importlib.import_module(name) if task.isidentifier() and importlib.util.find_spec(name) else None
    if not hasattr(module, "METRICS"):
        raise MetricError(f"There are no metrics of a task '{task}': add a module of that name to the metrics room.")
    return module
