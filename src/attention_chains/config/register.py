"""Makes the schema and the help texts known to Hydra, once, before it composes anything."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from attention_chains.config.help import describe_groups, describe_keys
from attention_chains.config.schema import RunConfig


def register(configs: Path) -> None:
    """Register the schema that configs/config.yaml starts from, and the resolvers that its help text uses.

    Parameters
    ----------
    configs : Path
        The folder of the configuration files.
    """
    ConfigStore.instance().store("schema", RunConfig)
    OmegaConf.register_new_resolver("describe_groups", lambda: describe_groups(configs), replace=True)
    OmegaConf.register_new_resolver("describe_keys", lambda _root_: describe_keys(_root_), replace=True)
