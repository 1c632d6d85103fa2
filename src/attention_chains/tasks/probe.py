"""Linear classifiers of every learning rate, trained side by side on the same batches (protocol 5).

As in the evaluation of DINOv2: SGD with momentum 0.9 and no weight decay, the learning rate times batch / 256 and then
a cosine to 0 over all steps, weights from N(0, 0.01), biases 0. All learning rates, and where each layer has
classifiers of its own all layers, are one tensor, and a step is a few matrix products: features are read once for all.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attention_chains.records import RecordError
from attention_chains.records.errors import cannot_write
from attention_chains.records.files import sync_folder
from attention_chains.tasks.seeds import noise_seed

MOMENTUM = 0.9
SPREAD = 0.01  # standard deviation of the initial weights
UNIT_BATCH = 256  # batch for which a learning rate is meant
CHECKPOINT_SECONDS = 60.0

Read = Callable[[np.ndarray], Tensor]
"""Numbers of images in; their features (groups, B, width) fp32, on the device, out."""


@dataclass(frozen=True)
class Recipe:
    """How the classifiers are trained.

    Attributes
    ----------
    learning_rates : sequence of float
        One classifier (of each group) for each.
    epochs : int
        Passes over the training images.
    batch : int
        Images of a step; the last step of an epoch takes what is left.
    seed : int
        Seed of the initial weights and of the order of the images.
    """

    learning_rates: Sequence[float]
    epochs: int
    batch: int
    seed: int


@dataclass
class Classifiers:
    """Linear classifiers: of each of G groups of features, and of each of R learning rates.

    Attributes
    ----------
    weight : Tensor
        (G, R * C, width) fp32; C rows belong to one classifier.
    bias : Tensor
        (G, 1, R * C) fp32.
    rates : int
        R.
    """

    weight: Tensor
    bias: Tensor
    rates: int

    def logits(self, features: Tensor) -> Tensor:
        """Logits (G, B, R, C) of features (G, B, width)."""
        return torch.baddbmm(self.bias, features, self.weight.mT).unflatten(-1, (self.rates, -1))

    def correct(self, features: Tensor, labels: Tensor) -> Tensor:
        """Which classifier has which image right: (B, G, R) bool, of features (G, B, width) and labels (B,)."""
        return (self.logits(features).argmax(-1) == labels[:, None]).transpose(0, 1)


@torch.no_grad()
def train(
    read: Read,
    labels: Tensor,
    width: tuple[int, int],
    classes: int,
    recipe: Recipe,
    checkpoint: Path | None = None,
    identity: str = "",
) -> Classifiers:
    """Train the classifiers of all learning rates.

    Parameters
    ----------
    read
        Features of training images by number, 0 to n - 1.
    labels
        (n,) long, on the device where the classifiers are to be trained.
    width
        Groups of features with classifiers of their own, and features of a group.
    classes
        Number of classes.
    recipe
        How.
    checkpoint
        File to keep the state of a long training in, after an epoch every minute; it is gone when the training is done.
    identity
        What the training is of; a checkpoint of anything else is not used.

    Returns
    -------
    Classifiers

    Raises
    ------
    RecordError
        The checkpoint cannot be read or written.
    """
    steps = Steps(width, classes, len(labels), recipe, labels.device)
    first = steps.resume(checkpoint, identity) if checkpoint is not None else 0
    kept = time.monotonic()
    for epoch in range(first, recipe.epochs):
        for rows in epoch_batches(len(labels), recipe, epoch):
            steps.take(read(rows), labels[torch.from_numpy(rows).to(labels.device)])
        if checkpoint is not None and time.monotonic() - kept > CHECKPOINT_SECONDS and epoch + 1 < recipe.epochs:
            save_tensors(checkpoint, steps.state, {"identity": identity, "epochs": str(epoch + 1)})
            kept = time.monotonic()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return steps.classifiers


def epoch_batches(n: int, recipe: Recipe, epoch: int) -> Iterator[np.ndarray]:
    """Numbers of the images of each step of an epoch, all n in an order of this seed and epoch."""
    generator = torch.Generator().manual_seed(noise_seed(recipe.seed, f"probe/order/{epoch}"))
    order = torch.randperm(n, generator=generator).numpy()
    for first in range(0, n, recipe.batch):
        yield order[first : first + recipe.batch]


def initial_weights(width: tuple[int, int], outputs: int, seed: int) -> Tensor:
    """N(0, 0.01), (groups, outputs, features): drawn on the host, so that every device begins with the same."""
    generator = torch.Generator().manual_seed(noise_seed(seed, "probe/weights"))
    return SPREAD * torch.randn(width[0], outputs, width[1], generator=generator)


class Steps:
    """The classifiers while they are trained: SGD with momentum, all learning rates at once.

    Parameters
    ----------
    width
        Groups of features, and features of a group.
    classes
        Number of classes.
    images
        Number of training images.
    recipe
        How they are trained.
    device
        Where.
    """

    def __init__(self, width: tuple[int, int], classes: int, images: int, recipe: Recipe, device: torch.device) -> None:
        rates, outputs = len(recipe.learning_rates), len(recipe.learning_rates) * classes
        weight = initial_weights(width, outputs, recipe.seed).to(device)
        self.classifiers = Classifiers(weight, torch.zeros(width[0], 1, outputs, device=device), rates)
        self._momentum = torch.zeros_like(weight), torch.zeros_like(self.classifiers.bias)
        self._one_hot = torch.eye(classes, device=device)
        scaled = torch.tensor(recipe.learning_rates, dtype=torch.float64) * recipe.batch / UNIT_BATCH
        self._rates = scaled.repeat_interleave(classes).float().to(device)  # (R * C,)
        self._per_epoch = math.ceil(images / recipe.batch)
        self._done, self._total = 0, recipe.epochs * self._per_epoch

    @property
    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step."""
        weight, bias = self._momentum
        return {
            "weight": self.classifiers.weight,
            "bias": self.classifiers.bias,
            "momentum.weight": weight,
            "momentum.bias": bias,
        }

    def take(self, features: Tensor, labels: Tensor) -> None:
        """One step on features (G, B, width) and labels (B,).

        The gradient of the mean cross-entropy by the logits is (probability - one-hot) / B; each classifier has its own
        loss, so that none feels another.
        """
        slope = self.classifiers.logits(features).softmax(-1)  # (G, B, R, C)
        slope -= self._one_hot[labels][:, None]
        slope = (slope / len(labels)).flatten(2)  # (G, B, R * C)
        weight, bias = self._momentum
        weight.baddbmm_(slope.mT, features, beta=MOMENTUM)  # momentum * old + gradient
        bias.mul_(MOMENTUM).add_(slope.sum(1, keepdim=True))
        rates = self._rates * (0.5 * (1 + math.cos(math.pi * self._done / self._total)))
        self.classifiers.weight.addcmul_(weight, rates[:, None], value=-1)
        self.classifiers.bias.addcmul_(bias, rates, value=-1)
        self._done += 1

    def resume(self, checkpoint: Path, identity: str) -> int:
        """Go back to the state in `checkpoint`, if there is one of this training; the number of epochs it had done."""
        found = load_tensors(checkpoint, identity)
        if found is None:
            return 0
        tensors, notes = found
        for name, tensor in self.state.items():
            tensor.copy_(tensors[name])
        self._done = int(notes["epochs"]) * self._per_epoch
        return int(notes["epochs"])


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors and notes to a safetensors file: all of it on the disk, or the file as it was.

    Raises
    ------
    RecordError
        It cannot be written.
    """
    draft = path.with_name(f".{path.name}-{uuid4().hex}")  # a pid may be taken on another node, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, draft, dict(notes))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error if isinstance(error, OSError) else OSError(None, str(error))) from error
    finally:
        draft.unlink(missing_ok=True)


def load_tensors(path: Path, identity: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and notes of a file that `save_tensors` wrote; None without one, or where it is of something else.

    Raises
    ------
    RecordError
        The file is no such file.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path} cannot be read ({error}): delete it, and run the same command again.") from error
    return (tensors, notes) if notes.get("identity") == identity else None
