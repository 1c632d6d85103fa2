"""Building a network whose random weights would only be thrown away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = (Tensor.normal_, Tensor.uniform_)


class Uninitialised(TorchFunctionMode):
    """While it is entered, initialisers leave tensors as they were allocated: every weight must be loaded after."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Pass everything on but what fills a tensor."""
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS:
            return (kwargs or {})["tensor"] if "tensor" in (kwargs or {}) else args[0]
        return func(*args, **(kwargs or {}))
