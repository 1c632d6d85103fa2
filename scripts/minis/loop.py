"""One training loop for every miniature: seeded per step, checkpointed, resumable, logged."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Recipe:
    """How long and how fast one stage is trained."""

    steps: int
    learning_rate: float
    horizon: int | None = None  # steps that the cosine is made for, where the stage ends before; None: all of them
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 50
    floor: float = 0.05  # the cosine ends at this fraction of the learning rate
    muon: bool | Literal["kernels"] = False  # Muon for matrices ("kernels": and convolutions), AdamW for the rest
    ema: float = 0.999
    log_every: int = 20
    save_every: int = 100


def train(model: nn.Module, loss_at: Callable[[int], Tensor], recipe: Recipe, folder: Path, stage: str) -> nn.Module:
    """Train `model`, or go on where an earlier call stopped, and load the averaged weights into it.

    Parameters
    ----------
    model
        Trained in place.
    loss_at
        The loss of step `i`. All of its randomness must come from `i`, so that a resumed run equals an undisturbed one.
    recipe
        Steps and optimiser.
    folder
        Where `<stage>.pt` (the checkpoint) and `<stage>.csv` (step, loss, seconds) are kept.
    stage
        Name of the two files.
    """
    optimisers = _optimisers(model, recipe)
    average = [p.detach().clone() for p in model.parameters()]
    checkpoint = folder / f"{stage}.pt"
    first, seconds = _resume(checkpoint, recipe, model, optimisers, average)
    started, losses = time.monotonic() - seconds, []
    for step in tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, desc=stage, unit="step"):
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            _set_rate(optimiser, recipe, step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        _average(average, model.parameters(), min(recipe.ema, (1 + step) / (10 + step)))
        losses.append(loss.item())
        if (step + 1) % recipe.log_every == 0:
            _log(folder / f"{stage}.csv", step + 1, sum(losses) / len(losses), time.monotonic() - started)
            losses.clear()
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            _save(checkpoint, recipe, model, optimisers, average, step + 1, time.monotonic() - started)
    for parameter, mean in zip(model.parameters(), average, strict=True):
        parameter.data.copy_(mean)
    return model.eval()


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, whatever came before it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def _optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for what it is made for: matrices between hidden layers, no embeddings, no output."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]  # a teacher's are not
    sizes = {False: (), True: (2,), "kernels": (2, 4)}[recipe.muon]
    hidden = [p for name, p in learned if p.ndim in sizes and _is_hidden(name)]
    known = {id(p) for p in hidden}
    rest = [p for _, p in learned if id(p) not in known]
    adamw = torch.optim.AdamW(rest, recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    if not hidden:
        return [adamw]
    rate = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    return [KernelMuon(hidden, **rate, adjust_lr_fn="match_rms_adamw"), adamw]


def _is_hidden(name: str) -> bool:
    ends = ("embed", "norm", "shared", "proj_out", "head.", "conv_in", "conv_out")
    return not any(part in name for part in ends)


class KernelMuon(torch.optim.Muon):
    """Muon that also takes a convolution's kernels: as a matrix with a row for each output channel."""

    def __init__(self, parameters: list[nn.Parameter], **settings: Any) -> None:
        self.kernels = [(p, nn.Parameter(_rows(p.detach(), p))) for p in parameters if p.ndim == 4]
        flat = {id(kernel): rows for kernel, rows in self.kernels}
        super().__init__([flat.get(id(p), p) for p in parameters], **settings)

    def step(self, closure: None = None) -> None:
        """Step by the kernels' own gradients."""
        for kernel, rows in self.kernels:
            rows.grad = None if kernel.grad is None else _rows(kernel.grad, kernel)
        super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, the kernels' too."""
        super().zero_grad(set_to_none)
        for kernel, _ in self.kernels:
            kernel.grad = None


def _rows(values: Tensor, kernel: Tensor) -> Tensor:
    """(out, in, h, w) -> (out, in*h*w), in the order in which the kernel is stored: of itself, a view."""
    last = kernel.is_contiguous(memory_format=torch.channels_last)
    return (values.permute(0, 2, 3, 1) if last else values).flatten(1)


def _set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    warm = min(1.0, (step + 1) / recipe.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * step / (recipe.horizon or recipe.steps)))
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * warm * (recipe.floor + (1 - recipe.floor) * cosine)


@torch.no_grad()
def _average(average: list[Tensor], parameters: Iterable[Tensor], decay: float) -> None:
    for mean, parameter in zip(average, parameters, strict=True):
        mean.lerp_(parameter, 1 - decay)


def _save(
    path: Path, recipe: Recipe, model: nn.Module, optimisers, average: list[Tensor], step: int, seconds: float
) -> None:
    state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "average": average}
    torch.save(state | {"recipe": asdict(recipe), "step": step, "seconds": seconds}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)  # a kill leaves the old checkpoint or the new one, never a torn one


def _resume(path: Path, recipe: Recipe, model: nn.Module, optimisers, average: list[Tensor]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["recipe"] != asdict(recipe):
        raise SystemExit(f"{path} was trained by another recipe: delete it, or train in another folder (--work).")
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    for mean, saved in zip(average, state["average"], strict=True):
        mean.copy_(saved)
    return state["step"], state["seconds"]


def _log(path: Path, step: int, loss: float, seconds: float) -> None:
    known = list(csv.reader(path.open())) if path.exists() else []
    rows = [row for row in known[1:] if int(row[0]) < step]  # drops what a killed run logged past its last checkpoint
    rows.append([str(step), f"{loss:.6f}", f"{seconds:.0f}"])
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["step", "loss", "seconds"], *rows])
