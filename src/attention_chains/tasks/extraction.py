"""From images to features: maps of all layers and heads, by several strategies, from one forward pass (protocol 5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from attention_chains.capture import Call, capture
from attention_chains.data.errors import DataError
from attention_chains.models.patch_attention import PatchAttention
from attention_chains.models.vision import Vision
from attention_chains.tasks.features import Features, Shape, alone_in, digest, make_features, open_features
from attention_chains.tasks.head_budget import head_weights
from attention_chains.tasks.seeds import noise_seed

VERSION = 2  # part of what features are known by: raise it whenever the same settings give other numbers
NEGLIGIBLE = 1e-6  # where every head's lambda2 is below, none mixes slower than another: all count alike
GetVision = Callable[[], Vision]
"""Gives the model: only asked where features are not there."""
Ranking = Callable[[PatchAttention, Sequence[int]], Tensor]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Strategy:
    """One way to turn the attention of a layer into maps.

    Attributes
    ----------
    settings : dict
        What decides its numbers, as JSON: the method and its keys, and the seed if it draws.
    ranking : callable
        The attention of a layer and a seed of each image in; maps (B, maps, patches) out.
    heads : str or None
        Weights of the heads' mean that is ranked, see `mean_head`; None: each head is ranked.
    seed : int
        Seed of what it draws.
    """

    settings: dict[str, Any]
    ranking: Ranking
    heads: str | None = None
    seed: int = 0

    def maps(self, attention: PatchAttention, layer: str, images: Sequence[str]) -> Tensor:
        """Maps (B, maps, patches) of one layer's attention; `images` are the ids of the B images."""
        if self.heads is not None:
            attention = mean_head(attention, self.heads, noise_seed(self.seed, layer))
        return self.ranking(attention, [noise_seed(self.seed, f"{image}/{layer}") for image in images])

    @property
    def name(self) -> str:
        """What its files are called by: the method, and a hash of all its settings."""
        return f"{self.settings['method']}-{digest(self.settings)}"


class FeatureSet:
    """The features of a data set by a model: read from `folder`, and made where they are not there.

    Parameters
    ----------
    dataset
        Labelled images.
    folder
        Where the features of all models and data sets lie.
    name
        What theirs are called by.
    of
        What their numbers depend on, the strategy and the images aside, as JSON: weights, image size.
    batch_size
        Images of a forward pass.
    skip_bad
        Leave out images that cannot be read.
    """

    def __init__(
        self, dataset: Any, folder: Path, name: str, of: dict[str, Any], batch_size: int, skip_bad: bool
    ) -> None:
        self.dataset, self._batch_size, self._skip_bad = dataset, batch_size, skip_bad
        self._of = {"version": VERSION, **of, "data": dataset.fingerprint, "images": digest(dataset.ids)}
        self.folder = folder / f"{name}-{digest(self._of)}"
        self._open: dict[str, Features | None] = {}

    def has(self, index: int, strategies: Sequence[Strategy]) -> bool:
        """Whether an image's features by all strategies were there when they were first asked for."""
        found = [self._once(strategy) for strategy in strategies]
        return all(features is not None and features.has(index) for features in found)

    def check(self, index: int, strategies: Sequence[Strategy], vision: GetVision) -> None:
        """Read an image whose features are not there.

        Raises
        ------
        DataError
            It cannot be read, or is nothing for the model.
        """
        if not self.has(index, strategies):
            vision().pixels([self.dataset[index].image])

    def unreadable(self, strategies: Sequence[Strategy], vision: GetVision) -> list[str]:
        """What is wrong with images, a sentence each; those whose features are there need not be read."""
        found = []
        for index in tqdm(range(len(self.dataset)), desc="checking training images", unit="image", leave=False):
            try:
                self.check(index, strategies, vision)
            except DataError as error:
                found.append(str(error))
        return found

    def features(self, strategies: Sequence[Strategy], vision: GetVision) -> dict[str, Features]:
        """Features of all images by every strategy, by its name; made from one pass over the images if need be.

        Parameters
        ----------
        strategies
            Each is made once, however often it is named.
        vision
            Gives the model.

        Raises
        ------
        DataError
            An image cannot be read, and is not to be skipped.
        RecordError
            The folder cannot be written.
        """
        wanted = {strategy.name: strategy for strategy in strategies}
        with alone_in(self.folder):
            found = {name: open_features(self.folder, name, self._identity(wanted[name])) for name in wanted}
            if not all(features is not None and features.complete for features in found.values()):
                found |= self._new([wanted[name] for name, features in found.items() if features is None], vision())
                todo = {wanted[name]: features for name, features in found.items() if not features.complete}
                extract(vision(), self.dataset, todo, self._batch_size, self._skip_bad)
        self._open |= found
        return found

    def _new(self, strategies: Sequence[Strategy], vision: Vision) -> dict[str, Features]:
        shapes, images = features_shapes(vision, strategies) if strategies else [], len(self.dataset)
        return {
            strategy.name: make_features(self.folder, strategy.name, self._identity(strategy), images, shape)
            for strategy, shape in zip(strategies, shapes, strict=True)
        }

    def _once(self, strategy: Strategy) -> Features | None:
        if strategy.name not in self._open:
            self._open[strategy.name] = open_features(self.folder, strategy.name, self._identity(strategy))
        return self._open[strategy.name]

    def _identity(self, strategy: Strategy) -> dict[str, Any]:
        return {**self._of, "strategy": strategy.settings}


def mean_head(attention: PatchAttention, heads: str, seed: int) -> PatchAttention:
    """Average the heads of a layer, as the attention of one head (paper, section 4.4; Table 6).

    What is averaged are the chains: CLS cut, rows normalised. So from a patch nothing leads to CLS; the row of CLS is
    the mean of the heads' whole rows.

    Parameters
    ----------
    attention
        A layer, (B, H, T, T).
    heads
        "uniform"; "lambda2" of each image and head; or "random", drawn from U(0, 1) for each head of the layer
        (protocol 9, questions 29 and 32).
    seed
        Of the layer's draw.

    Returns
    -------
    PatchAttention
        (B, 1, T, T).
    """
    weights = head_weights(heads, attention, seed)  # (B, H)
    weights = torch.where(weights.amax(-1, keepdim=True) > NEGLIGIBLE, weights, 1.0)
    mean = torch.nn.functional.pad(attention.chain.mix(weights).matrix(), (1, 0, 1, 0))  # (B, T, T)
    of_cls = attention.logits[..., 0, :].softmax(-1)  # (B, H, T)
    mean[:, 0] = (of_cls * (weights / weights.sum(-1, keepdim=True))[..., None]).sum(1)
    return PatchAttention(mean.log()[:, None], attention.registers, attention.grid)


def extract(
    vision: Vision, dataset: Any, wanted: Mapping[Strategy, Features], batch_size: int, skip_bad: bool = False
) -> None:
    """Fill in what is missing of the features of a data set, all strategies from the same forward passes.

    Images are taken in blocks that begin at multiples of the batch size, whatever is there already: one that is
    computed again, because the process was killed, comes out with the same bits.

    Parameters
    ----------
    vision
        The model.
    dataset
        Labelled images.
    wanted
        By strategy, the features to complete.
    batch_size
        Images of a forward pass.
    skip_bad
        Leave out images that cannot be read.

    Raises
    ------
    DataError
        An image cannot be read, and is not to be skipped.
    """
    blocks = [range(first, min(first + batch_size, len(dataset))) for first in range(0, len(dataset), batch_size)]
    for block in tqdm(blocks, desc="features", unit="batch", leave=False):
        absent = {row for row in block if not all(features.has(row) for features in wanted.values())}
        rows, names, pixels = _readable(vision, dataset, block, skip_bad) if absent else ([], [], [])
        if absent.isdisjoint(rows):
            continue
        maps = _maps(vision, torch.cat(pixels), list(wanted), names)
        for features, values in zip(wanted.values(), maps, strict=True):
            new = [place for place, row in enumerate(rows) if not features.has(row)]
            features.write([rows[place] for place in new], values.flatten(1)[new].half().cpu().numpy())


def features_shapes(vision: Vision, strategies: Sequence[Strategy]) -> list[Shape]:
    """Layers, maps of a layer and patches of a map that each strategy gives: found on a black image."""
    pixels = vision.pixels([np.zeros((64, 64, 3), dtype=np.uint8)])
    return [(maps.shape[1], maps.shape[2], maps.shape[3]) for maps in _maps(vision, pixels, strategies, ["black"])]


def _readable(vision: Vision, dataset: Any, block: range, skip_bad: bool) -> tuple[list[int], list[str], list[Tensor]]:
    """Numbers, ids and pixels (1, 3, S, S) of the images of a block that can be read."""
    read: list[tuple[int, str, Tensor]] = []
    for index in block:
        try:
            sample = dataset[index]
            read.append((index, sample.id, vision.pixels([sample.image])))
        except DataError as error:
            if not skip_bad:
                raise
            log.warning("%s", error)
    rows, names, pixels = ([each[part] for each in read] for part in range(3))
    return rows, names, pixels


@torch.no_grad()
def _maps(vision: Vision, pixels: Tensor, strategies: Sequence[Strategy], names: Sequence[str]) -> list[Tensor]:
    """Maps of images by each strategy, (B, layers, maps, patches), from one forward pass."""
    found: dict[Strategy, list[Tensor]] = {strategy: [] for strategy in strategies}

    def rank(call: Call) -> None:
        attention = PatchAttention.from_call(call, vision.registers, vision.grid)
        for strategy in strategies:
            found[strategy].append(strategy.maps(attention, call.layer, names))

    with capture(vision.network, vision.blocks, reduce=rank):
        vision.forward(pixels)
    return [torch.stack(maps, 1) for maps in found.values()]
