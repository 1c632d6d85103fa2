"""Forward passes in which each block ranks its patches by its own logits and masks the first of them (protocol 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_chains.capture import Call, capture
from attention_chains.methods import Ranking
from attention_chains.models.patch_attention import PatchAttention
from attention_chains.models.vision import Vision
from attention_chains.tasks.head_budget import head_weights, places, split
from attention_chains.tasks.seeds import noise_seed

ROWS = {"cpu": 2**20, "cuda": 2**24}  # entries of one head's attention matrices in a forward pass, all rows together


@dataclass(frozen=True)
class Strategy:
    """How patches are masked.

    Attributes
    ----------
    ranking : callable
        A method of the kind "ranking": the patches it scores highest are masked first.
    layers : sequence of str
        Paths of the attention layers that mask, from the first on.
    budget : str or None
        None: every head masks round(q P) patches. Else round(q P H) are shared among the heads, see `head_weights`.
    """

    ranking: Ranking
    layers: Sequence[str]
    budget: str | None = None


@dataclass
class Batch:
    """Images to be masked in several ways, and what all of these share.

    Attributes
    ----------
    pixels : Tensor
        (B, 3, S, S), preprocessed.
    ids : sequence of str
        B ids, from which every random choice is drawn.
    seed : int
        Seed of the run.
    first : PatchAttention or None
        Attention of the first block, which no masking changes: kept from the first pass on.
    """

    pixels: Tensor
    ids: Sequence[str]
    seed: int = 0
    first: PatchAttention | None = field(default=None, repr=False)

    def seeds(self, block: int) -> list[int]:
        """One seed of each image for what is drawn in one block."""
        return [noise_seed(self.seed, f"{name}/{block}/order") for name in self.ids]

    def head_seed(self, block: int) -> int:
        """Seed of one block's random weights of the heads."""
        return noise_seed(self.seed, f"{block}/heads")


@torch.inference_mode()
def masked_logits(model: Vision, batch: Batch, strategy: Strategy, fractions: Sequence[float]) -> Tensor:
    """Class logits of the images with a share of their patches masked.

    All fractions of an image run side by side, as many in one forward pass as memory allows. The ranking of the first
    block is the same for all of them and is computed once.

    Parameters
    ----------
    model : Vision
        A vision transformer with a classifier.
    batch, strategy
        B images, and how to mask them.
    fractions
        F shares of the P patches, each from 0 to 1; q masks round(q P), of two equally near numbers the even one.

    Returns
    -------
    Tensor
        (F, B, classes) fp32.
    """
    tokens = 1 + model.registers + model.grid[0] * model.grid[1]
    room = ROWS.get(batch.pixels.device.type, ROWS["cuda"]) // (tokens**2 * len(batch.ids))
    step, masker = max(1, room), Masker(model, batch, strategy)
    parts = [masker.logits(fractions[i : i + step]) for i in range(0, len(fractions), step)]
    return torch.cat(parts)


@dataclass(frozen=True)
class Order:
    """In which order each head masks its patches, and the share that each has of a common budget.

    Attributes
    ----------
    places : Tensor
        (c, B, H, P) long: 0 is masked first. c is 1 where all fractions have the same, else their number.
    weights : Tensor or None
        (c, B, H) weights of the heads; None where each masks as many.
    """

    places: Tensor
    weights: Tensor | None

    def first(self, fractions: Sequence[float]) -> Tensor:
        """Which patches are masked at F fractions: boolean (F, B, H, P)."""
        heads, patches = self.places.shape[-2:]
        per_head = patches if self.weights is None else patches * heads
        amount = torch.tensor([round(q * per_head) for q in fractions]).to(self.places.device, non_blocking=True)
        if self.weights is None:
            return self.places < amount.view(-1, 1, 1, 1)
        return self.places < split(amount.view(-1, 1), self.weights, patches).unsqueeze(-1)


class Masker:
    """The masking of one strategy inside forward passes over a batch: its `edit` is that of a capture.

    Parameters
    ----------
    model, batch, strategy
        See `masked_logits`.
    """

    def __init__(self, model: Vision, batch: Batch, strategy: Strategy) -> None:
        self._model, self._batch, self._strategy = model, batch, strategy
        self._fractions: Sequence[float] = ()
        self._first: Order | None = None

    def logits(self, fractions: Sequence[float]) -> Tensor:
        """Class logits (F, B, classes) of one forward pass over F copies of the images."""
        self._fractions = fractions
        pixels = self._batch.pixels.repeat(len(fractions), 1, 1, 1)  # (F * B, 3, S, S): fraction by fraction
        layers = list(self._strategy.layers)
        if not layers:
            return self._apart(self._model.logits(pixels))
        with capture(self._model.network, layers=layers, reduce=lambda _: None, edit=self.edit):
            return self._apart(self._model.logits(pixels))

    def edit(self, call: Call) -> Tensor:
        """Output of an attention layer with its patches masked: (F * B, H, T, e).

        The logits are there for the ranking, so the output is computed from them: cheaper than a second attention.
        """
        attention = self._attention(call)
        hidden = self.hidden(call.layer, attention)  # (F, B, H, T)
        logits = self._apart(attention.logits).expand(*hidden.shape, -1)
        logits = logits.clone() if attention is self._batch.first else logits  # else they are this pass's own
        logits.masked_fill_(hidden.unsqueeze(-2), -inf)
        weights = torch.softmax(logits, dim=-1, out=logits).flatten(0, 1)
        return weights @ call.v.to(weights.dtype)

    def hidden(self, layer: str, attention: PatchAttention) -> Tensor:
        """Which tokens a layer masks in each copy of each image: boolean (F, B, H, T), never CLS or a register."""
        patches = self._order(layer, attention).first(self._fractions)
        return F.pad(patches, (1 + attention.registers, 0))

    def _attention(self, call: Call) -> PatchAttention:
        """Attention of all copies; of the first layer that of the images alone, which all strategies share."""
        if call.layer != self._model.blocks[0]:
            return PatchAttention.from_call(call, self._model.registers, self._model.grid)
        if self._batch.first is None:
            images = len(self._batch.ids)
            once = replace(call, q=call.q[:images], k=call.k[:images], v=call.v[:images])
            self._batch.first = PatchAttention.from_call(once, self._model.registers, self._model.grid)
        return self._batch.first

    def _order(self, layer: str, attention: PatchAttention) -> Order:
        if attention is not self._batch.first:
            return self._ranked(layer, attention)
        if self._first is None:
            self._first = self._ranked(layer, attention)
        return self._first

    def _ranked(self, layer: str, attention: PatchAttention) -> Order:
        copies = len(attention.logits) // len(self._batch.ids)
        block = self._model.blocks.index(layer)
        seeds = self._batch.seeds(block) * copies
        ranked = places(self._strategy.ranking(attention, seeds))
        if self._strategy.budget is None:
            return Order(self._apart(ranked), None)
        weights = head_weights(self._strategy.budget, attention, self._batch.head_seed(block))
        return Order(self._apart(ranked), self._apart(weights))

    def _apart(self, rows: Tensor) -> Tensor:
        """Take copies and images apart: (c * B, ...) to (c, B, ...)."""
        return rows.unflatten(0, (-1, len(self._batch.ids)))
