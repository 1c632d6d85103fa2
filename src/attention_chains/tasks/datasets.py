"""From the data section of a configuration to a data set."""

from __future__ import annotations

from typing import Any

from attention_chains.config import ConfigError
from attention_chains.config.schema import DataConfig
from attention_chains.data.errors import DataError


def open_dataset(config: DataConfig) -> Any:
    """Open the data set of a resolved configuration.

    Raises
    ------
    DataError
        The data is missing or broken.
    ConfigError
        There is no such data set.
    """
    if config.name not in _OPENERS:
        raise ConfigError(f"There is no data set '{config.name}': choose one of {', '.join(_OPENERS)}.")
    return _OPENERS[config.name](config)


def missing_data(config: DataConfig) -> list[str]:
    """Everything that keeps the data set from being opened, one sentence each; empty when nothing does."""
    found = []
    for reader in _PARTS.get(config.name, (open_dataset,)):
        try:
            reader(config)
        except DataError as error:
            found.append(str(error))
    return found


def _digit_scenes(config: DataConfig) -> Any:
    from attention_chains.data.digit_scenes import DigitScenes

    return DigitScenes(config.split, config.n, config.seed, config.word, config.prompt)


def _imagenet_segmentation(config: DataConfig) -> Any:
    from attention_chains.data.first_samples import FirstSamples
    from attention_chains.data.gtsegs import GtSegs

    return FirstSamples(GtSegs(config.path, _imagenet_words(config), config.prompt), config.n)


def _imagenet_file(config: DataConfig) -> None:
    from attention_chains.data.gtsegs import check_file

    check_file(config.path)


def _imagenet_words(config: DataConfig) -> dict[str, str]:
    from attention_chains.data.words import read_words

    return read_words(config.words, config.lemmas)


# parts of a data set that can be missing by themselves: all of them are told, not the first alone
_PARTS = {"imagenet_segmentation": (_imagenet_file, _imagenet_words)}
_OPENERS = {"digit_scenes": _digit_scenes, "imagenet_segmentation": _imagenet_segmentation}
