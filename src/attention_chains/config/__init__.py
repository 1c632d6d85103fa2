"""What can be configured and how it is checked. The choices themselves are the YAML files in configs/."""

from attention_chains.config.errors import ConfigError
from attention_chains.config.explain import explain
from attention_chains.config.register import register
from attention_chains.config.resolve import identity, resolve
from attention_chains.config.schema import (
    Checkpoint,
    DataConfig,
    LauncherConfig,
    LoggerConfig,
    MethodConfig,
    ModelConfig,
    RunConfig,
    ShardConfig,
    TaskConfig,
)

__all__ = [
    "Checkpoint",
    "ConfigError",
    "DataConfig",
    "LauncherConfig",
    "LoggerConfig",
    "MethodConfig",
    "ModelConfig",
    "RunConfig",
    "ShardConfig",
    "TaskConfig",
    "explain",
    "identity",
    "register",
    "resolve",
]
