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


def open_training_set(config: DataConfig) -> Any:
    """Open the images that a probe is trained on: `data.train` of the training split of the same data set.

    Raises
    ------
    DataError
        The data is missing or broken, or `data.train` is needed.
    ConfigError
        There is no such data set, or it has no training images.
    """
    if config.name not in _TRAINING:
        raise ConfigError(f"data={config.name} has no training images: choose one of {', '.join(_TRAINING)}.")
    return _TRAINING[config.name](config)


def missing_data(config: DataConfig) -> list[str]:
    """Everything that keeps the data set from being opened, one sentence each; empty when nothing does."""
    found = []
    for reader in _PARTS.get(config.name, (open_dataset,)):
        try:
            reader(config)
        except DataError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))  # a folder that both splits lack is told once


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


def _digit_classes(config: DataConfig) -> Any:
    from attention_chains.data.digit_classes import DigitClasses

    return DigitClasses(config.split, config.n, config.seed)


def _digit_training(config: DataConfig) -> Any:
    from attention_chains.data.digit_classes import DigitClasses

    if config.train is None:
        raise DataError("data.train is None: digit scenes are made to order, so say how many, at least one.")
    return DigitClasses("train", config.train, config.seed)


def _imagenet(config: DataConfig) -> Any:
    from attention_chains.data.imagenet import ImageNet

    return ImageNet(config.path, config.n, config.seed)


def _imagenette(config: DataConfig) -> Any:
    from attention_chains.data.imagenette import Imagenette

    return Imagenette(config.path, config.split, config.n, config.seed)


def _imagenette_training(config: DataConfig) -> Any:
    from attention_chains.data.imagenette import Imagenette

    return Imagenette(config.path, "train", config.train, config.seed)


def _prompts(config: DataConfig) -> Any:
    from attention_chains.data.reference import Compared

    return Compared(_prompts_alone(config), _reference_alone(config))


def _prompts_alone(config: DataConfig) -> Any:
    from attention_chains.data.prompts import Prompts

    return Prompts(config.path, config.prompt, config.n, config.seed)


def _reference_alone(config: DataConfig) -> Any:
    from attention_chains.data.reference import open_reference

    return open_reference(config)


def _digit_labels(config: DataConfig) -> Any:
    from attention_chains.data.digit_labels import DigitLabels

    return DigitLabels(config.split, config.n, config.seed)


def _coco_stuff(config: DataConfig) -> Any:
    from attention_chains.data.coco_stuff import CocoStuff

    return CocoStuff(config.path, config.labels, config.list, config.list_sha256, config.eval_size, config.n)


def _coco_images(config: DataConfig) -> None:
    from attention_chains.data.coco_stuff import open_images

    open_images(config.path)


def _coco_labels(config: DataConfig) -> None:
    from attention_chains.data.coco_stuff import open_labels

    open_labels(config.labels)


def _coco_list(config: DataConfig) -> None:
    from attention_chains.data.coco_list import read_ids

    read_ids(config.list, config.list_sha256)


# parts of a data set that can be missing by themselves: all of them are told, not the first alone
_PARTS = {
    "imagenet_segmentation": (_imagenet_file, _imagenet_words),
    "imagenette": (_imagenette, _imagenette_training),
    "prompts": (_prompts_alone, _reference_alone),
    "coco_stuff": (_coco_images, _coco_labels, _coco_list),
}
_OPENERS = {
    "digit_scenes": _digit_scenes,
    "digit_classes": _digit_classes,
    "imagenet_segmentation": _imagenet_segmentation,
    "imagenet": _imagenet,
    "imagenette": _imagenette,
    "prompts": _prompts,
    "digit_labels": _digit_labels,
    "coco_stuff": _coco_stuff,
}
_TRAINING = {"digit_classes": _digit_training, "imagenette": _imagenette_training}
