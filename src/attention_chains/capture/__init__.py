"""Reads and edits the attention of any model, by one mechanism."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from attention_chains.capture.call import Call
from attention_chains.capture.context import capture
from attention_chains.capture.edits import mask_tokens
from attention_chains.capture.errors import CaptureError
from attention_chains.capture.head_mean import HeadMean
from attention_chains.capture.mean import MeanAttention
from attention_chains.capture.tape import Tape

__all__ = ["Call", "CaptureError", "HeadMean", "MeanAttention", "Tape", "capture", "mask_tokens"]


class _CallablePackage(ModuleType):
    """The package made callable: `attention_chains.capture` names both it and its one function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return capture(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
