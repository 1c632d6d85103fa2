"""Linear probing of attention maps: how much of an image's class they tell (paper, appendix B; protocol 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from attention_chains import methods
from attention_chains.config import ConfigError, MethodConfig, ModelConfig, RunConfig, identity
from attention_chains.data.errors import DataError
from attention_chains.metrics.probing import row, summarise
from attention_chains.records import RunIdentity, run_folder
from attention_chains.tasks.datasets import open_dataset, open_training_set
from attention_chains.tasks.extraction import FeatureSet, Strategy
from attention_chains.tasks.features import Features, alone_in
from attention_chains.tasks.model_task import ModelTask
from attention_chains.tasks.probe import Classifiers, Recipe, load_tensors, save_tensors, train

NEEDED = ("probe", "learning_rates", "epochs", "train_batch", "scaling")
READ_FROM = ("family", "image_size", "resize", "dtype")  # of the model, beside its weights: what its maps depend on


@dataclass(frozen=True)
class EvaluationImage:
    """An image of the evaluation set without its pixels, which are read only where its features are not there yet.

    Attributes
    ----------
    id : str
    index : int
        Its number in the evaluation set.
    label : int
    """

    id: str
    index: int
    label: int


class EvaluationSet:
    """The evaluation set as the loop sees it; its fingerprint is that of the training set, too.

    Parameters
    ----------
    evaluation, training
        Data sets of labelled images.
    """

    def __init__(self, evaluation: Any, training: Any) -> None:
        both = f"{training.fingerprint} {evaluation.fingerprint}"
        self.ids: list[str] = evaluation.ids
        self.fingerprint = hashlib.sha256(both.encode()).hexdigest()
        self._labels: list[int] = evaluation.labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> EvaluationImage:
        return EvaluationImage(self.ids[index], index, self._labels[index])


class Probing(ModelTask):
    """Linear classifiers on the attention maps of every method of a run.

    The maps of all training and evaluation images are computed once and kept in `<out>/features`, whatever run asks for
    them; the classifiers of a run lie beside its records. The seed changes the initial weights, the order of the
    images, and what a method draws; methods of one run share the first two. The best learning rate is taken on the
    evaluation set, as in the paper (`metrics.probing`).

    With `task.probe=maps` the maps of all layers and heads are one long vector (Table 5). With `task.probe=layers` the
    heads of a layer are averaged, the method ranks the mean, and every layer has classifiers of its own (Table 6);
    `heads` of the method says how they are averaged, uniformly where it says nothing.

    Raises
    ------
    MethodError, ConfigError
        For a method that does not exist or a key that it does not take, a key of the task without a value, or a device
        that is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        for name in NEEDED:
            if getattr(config.task, name) is None:
                raise ConfigError(f"task.{name} has no value, but a probe needs one: set it with task.{name}=...")
        super().__init__(config)
        self._strategies(config.seed)
        self._trained: dict[int, dict[str, tuple[Features, Classifiers]]] = {}

    def missing(self) -> list[str]:
        """What is not there to run this: weights, memory, disk, data."""
        return list(dict.fromkeys([*super().missing(), *self._missing_training()]))

    def prepare(self, folder: Path) -> None:
        """Read all training images, unless their features are there.

        Raises
        ------
        DataError
            Some cannot be read, and are not to be skipped.
        """
        bad = self._unreadable
        if bad and not self.config.data.skip_bad:
            shown = "\n".join(islice(bad, 10))
            raise DataError(
                f"{len(bad)} of {len(self._training.dataset)} training images cannot be used; repair them, or leave "
                f"them out with data.skip_bad=true:\n{shown}"
            )

    def check(self, sample: EvaluationImage) -> None:
        """Read the image, unless its features are there.

        Raises
        ------
        DataError
            It cannot be read.
        """
        self._evaluation.check(sample.index, self._needed, lambda: self._model)

    def measure(self, samples: Sequence[EvaluationImage], seed: int) -> list[Mapping[str, Any]]:
        """Which classifiers have each image right; the first call of a seed makes the features and trains on them.

        Returns
        -------
        list of dict
            {"stats": {label: {"rates": R, "correct": 0 or 1 for each rate, or for each layer such a list}}} per image.

        Raises
        ------
        DataError
            A training or evaluation image cannot be read, and is not to be skipped.
        RecordError
            Features or classifiers cannot be kept.
        """
        if seed not in self._trained:
            self._trained = {seed: self._train(seed)}  # of one seed at a time
        rows = np.array([sample.index for sample in samples])
        labels = torch.tensor([sample.label for sample in samples], device=self.device)
        correct = {
            label: classifiers.correct(self._batch(features, rows), labels).int().tolist()
            for label, (features, classifiers) in self._trained[seed].items()
        }
        return [{"stats": {label: self._stats(each[i]) for label, each in correct.items()}} for i in range(len(rows))]

    def running(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Accuracy so far of the run's last method."""
        label = list(self.config.methods)[-1]
        rows = np.array([row(record["stats"][label]) for record in records])
        return {name: float(value) for name, value in summarise(rows.sum(0), len(rows)).items()}

    def _stats(self, layers: list[list[int]]) -> dict[str, Any]:
        return {"rates": len(layers[0]), "correct": layers if self._by_layer else layers[0]}

    def _train(self, seed: int) -> dict[str, tuple[Features, Classifiers]]:
        """By label, the features of the evaluation images, and the classifiers."""
        strategies = self._strategies(seed)
        together = [*strategies.values(), *self._needed]  # one pass for all repeats
        parts = self._training, self._evaluation
        training, evaluation = (part.features(together, lambda: self._model) for part in parts)
        folder = self._run_folder(seed) / "classifiers"
        with alone_in(folder):
            return {
                label: (evaluation[each.name], self._classifiers(folder, label, training[each.name], seed))
                for label, each in strategies.items()
            }

    def _classifiers(self, folder: Path, label: str, features: Features, seed: int) -> Classifiers:
        """The classifiers of one method: those in the run's folder, or trained and put there."""
        name, rows = quote(label, safe=" "), features.there
        if not len(rows):
            raise DataError(f"No training image of data={self.config.data.name} can be read: repair them.")
        what = hashlib.sha256(f"{self._run_identity(seed).digest} {label} {rows.tolist()}".encode()).hexdigest()
        kept = load_tensors(folder / f"{name}.safetensors", what)
        if kept is not None:
            weight, bias = (kept[0][part].to(self.device) for part in ("weight", "bias"))
            return Classifiers(weight, bias, len(self.config.task.learning_rates))
        trained = self._trained_on(features, rows, seed, folder / f"{name}.unfinished.safetensors", what)
        tensors = {"weight": trained.weight, "bias": trained.bias}
        save_tensors(folder / f"{name}.safetensors", tensors, {"identity": what})
        return trained

    def _trained_on(self, features: Features, rows: np.ndarray, seed: int, checkpoint: Path, what: str) -> Classifiers:
        task, dataset = self.config.task, self._training.dataset
        labels = torch.tensor(dataset.labels, device=self.device)[torch.from_numpy(rows).to(self.device)]
        recipe = Recipe(task.learning_rates, task.epochs, task.train_batch, seed)
        width, classes = self._width(features), len(dataset.classes)
        return train(lambda i: self._batch(features, rows[i]), labels, width, classes, recipe, checkpoint, what)

    def _batch(self, features: Features, rows: np.ndarray) -> Tensor:
        """Features of images as the classifiers take them: (groups, B, width) fp32 on the device."""
        values = torch.from_numpy(features.read(rows)).to(self.device).float()
        if self.config.task.scaling == "max":
            values = values.unflatten(1, (-1, features.shape[-1]))  # (B, layers * maps, patches)
            values = (values / values.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)).flatten(1)
        return values.unflatten(1, self._width(features)).transpose(0, 1)

    def _width(self, features: Features) -> tuple[int, int]:
        layers, maps, patches = features.shape
        return (layers, maps * patches) if self._by_layer else (1, layers * maps * patches)

    def _missing_training(self) -> list[str]:
        try:
            open_training_set(self.config.data)
        except DataError as error:
            return [str(error)]
        return []

    def _strategies(self, seed: int) -> dict[str, Strategy]:
        """By label, how features are made."""
        return {label: strategy(spec, self.config.task.probe, seed) for label, spec in self.config.methods.items()}

    def _feature_set(self, dataset: Any) -> FeatureSet:
        model = self._model_config
        of = {"weights": self._weights, **{key: getattr(model, key) for key in READ_FROM}}
        name = f"{model.name}-{self.config.data.name}"
        folder = Path(self.config.out) / "features"
        return FeatureSet(dataset, folder, name, of, self.config.batch_size, self.config.data.skip_bad)

    def _run_identity(self, seed: int) -> RunIdentity:
        config = identity(replace(self.config, seed=seed, repeats=1))
        return RunIdentity(config, self.config.task.reading, self._weights, self._dataset.fingerprint)

    def _run_folder(self, seed: int) -> Path:
        return run_folder(self.config.out, self.config.task.name, self.config.model.name, self._run_identity(seed))

    @property
    def _by_layer(self) -> bool:
        return self.config.task.probe == "layers"

    @property
    def _model_config(self) -> ModelConfig:
        """The model without its classifier: a probe brings its own."""
        return replace(self.config.model, head=None, head_sha256=None, classes=None)

    @cached_property
    def _needed(self) -> list[Strategy]:
        """What this run and its repeats need: each differs from the others in what it draws, if anything."""
        seeds = range(self.config.seed, self.config.seed + self.config.repeats)
        return list({each.name: each for seed in seeds for each in self._strategies(seed).values()}.values())

    @cached_property
    def _unreadable(self) -> list[str]:
        return self._training.unreadable(self._needed, lambda: self._model)

    @cached_property
    def _dataset(self) -> EvaluationSet:
        evaluation, training = self._evaluation.dataset, self._training.dataset
        if list(evaluation.classes) != list(training.classes):
            raise DataError(
                f"The training images of data={self.config.data.name} are of {len(training.classes)} classes, and the "
                f"evaluation images of {len(evaluation.classes)} others: use two splits of one data set."
            )
        return EvaluationSet(evaluation, training)

    @cached_property
    def _evaluation(self) -> FeatureSet:
        return self._feature_set(open_dataset(self.config.data))

    @cached_property
    def _training(self) -> FeatureSet:
        return self._feature_set(open_training_set(self.config.data))


def strategy(spec: MethodConfig, probe: str, seed: int) -> Strategy:
    """How a method makes features.

    Parameters
    ----------
    spec
        The method and its keys. By layer, `heads` says how heads are averaged before the method ranks their mean.
    probe
        "maps" or "layers".
    seed
        Seed of the run; what draws nothing is the same for all seeds.

    Raises
    ------
    MethodError
        There is no such ranking, or it does not take one of the keys.
    """
    settings = {key: value for key, value in vars(spec).items() if value is not None and key != "name"}
    heads = settings.pop("heads", "uniform") if probe == "layers" else None
    ranking = methods.bind(spec.name, settings, kind="ranking")
    draws = "random" in (heads, *spec.name.split("_"))  # a method that draws says so in its name
    what = {"method": spec.name, **settings, "heads": heads, "seed": seed if draws else None}
    return Strategy(what, ranking, heads, seed if draws else 0)
