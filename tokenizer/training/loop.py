"""Training loop of tokenizers and generators: steps, averaged weights, checkpoints, resume, log."""

import copy
import json
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tokenizer.training.distributed import ProcessGroup, uses_bf16
from tokenizer.training.muon import Muon
from tokenizer.training.recipe import BaseRecipe

RANK_SEED = 1_000_003  # seeds of two processes of a run differ by this
SMOOTHING = 0.02  # share of the newest step in the logged loss

Model = TypeVar("Model", bound=nn.Module)
Settings = TypeVar("Settings", bound=BaseRecipe)
Batch = TypeVar("Batch")


def make_optimisers(
    weights: Iterable[Tensor], inner_weights: Iterable[Tensor], recipe: BaseRecipe
) -> list[torch.optim.Optimizer]:
    """Muon (where the recipe chooses it) for the inner weights, AdamW for all others.

    The others face pixels or codes, or are biases and norms, which have no weight decay. Weights
    without `requires_grad` are left out.
    """
    inner: list[Tensor] = []
    if recipe.optimiser == "muon":
        inner = [weight for weight in inner_weights if weight.requires_grad]
    muon = [Muon(inner, recipe.rate, weight_decay=recipe.weight_decay)] if inner else []
    in_muon = set(inner)
    others = [weight for weight in weights if weight.requires_grad and weight not in in_muon]
    groups = [
        {
            "params": [weight for weight in others if weight.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [weight for weight in others if weight.ndim == 1], "weight_decay": 0.0},
    ]
    return [*muon, torch.optim.AdamW(groups, recipe.rate, betas=(0.9, 0.95), fused=True)]


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float, steps: float) -> None:
    """Move the averaged weights towards the model's (exponential moving average); copy buffers.

    The decay warms up with the number of steps so far: a fixed one would keep the random start
    alive in a short run.
    """
    decay = min(decay, (1 + steps) / (10 + steps))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
    for average, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
        average.copy_(buffer)


class Trainer(ABC, Generic[Model, Settings, Batch]):
    """Trains a model in a run folder: `last.pt` to resume from, `log.jsonl`, averaged weights.

    Subclasses provide batches, loss, evaluation and the weights file. `last.pt`, the log and the
    training record store the number of samples seen as `views`.
    """

    def __init__(
        self,
        recipe: Settings,
        model: Model,
        inner_weights: Iterable[Tensor],
        *,
        record: Mapping[str, str],
        group: ProcessGroup | None = None,
        extra_state: Mapping[str, nn.Module | torch.optim.Optimizer | None] | None = None,
    ) -> None:
        """Start anew, or resume when the run folder holds `last.pt`.

        inner_weights: the weights that Muon may train. record: training record of the checkpoint
        that the model comes from, empty for a new model; its samples count as seen.
        extra_state: further state in a checkpoint. A part that a checkpoint lacks starts anew.
        """
        self.recipe, self.model = recipe, model
        self.group = group or ProcessGroup()
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimisers = make_optimisers(model.parameters(), inner_weights, recipe)
        self.extra_state = extra_state or {}
        self.samples_seen = int(record.get("views", 0))
        self.seconds = float(record.get("seconds", 0))
        # A new optimiser warms up whatever the weights: it does not know the scale of gradients.
        self.warm_from = self.samples_seen
        self.stop = False
        self.time_share = 0.0  # see `_time_share`
        self.last = recipe.run / "last.pt"
        if self.last.exists():
            self._resume()
        parallel = self.group.wrap(model)
        # The same weights; only training steps are worth compiling.
        self.train_model = torch.compile(parallel) if recipe.compile else parallel
        self.bf16 = uses_bf16(recipe.precision, self.group.device)

    @abstractmethod
    def _batches(self, seed: int) -> Iterator[Batch]:
        """Endless training batches. A resumed run passes another seed, to draw other samples."""

    @abstractmethod
    def _loss(self, batch: Batch) -> Tensor:
        """Scalar to minimise, from a forward pass of `train_model` under `autocast`."""

    @abstractmethod
    def _evaluate(self) -> dict[str, float]:
        """Metrics of the averaged model on validation data, by their names in the log."""

    @abstractmethod
    def _ship(self, record: dict[str, str]) -> None:
        """Write the averaged model with its training record (views, seconds, recipe)."""

    def _time_share(self) -> float:
        """Share of the time limit that has passed, 1 at its end; 0 without a limit."""
        return 0.0

    def autocast(self) -> torch.autocast:
        """Context of the forward pass: bfloat16 where the recipe and the hardware say so."""
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.bf16)

    def request_stop(self, *_: Any) -> None:
        """Signal handler: end the run after the current step."""
        self.stop = True

    def run(self) -> None:
        """Train until all samples were seen, the time limit is over, or SIGINT or SIGTERM arrives.

        Every end saves a checkpoint.
        """
        recipe = self.recipe
        recipe.run.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_stop)
        # A resumed run must not draw its first samples again.
        seed = recipe.seed + self.samples_seen
        torch.manual_seed(seed + RANK_SEED * self.group.rank)
        saved, evaluated = time.monotonic(), self.samples_seen
        with tqdm(
            total=recipe.samples,
            initial=self.samples_seen,
            unit="image",
            smoothing=0.05,
            disable=not self.group.is_main,
        ) as bar:
            for loss in self._steps(self._batches(seed)):
                bar.update(recipe.batch)
                if not self.group.is_main:
                    continue
                every = recipe.evaluate_every
                if self.samples_seen // every > evaluated // every or self.finished:
                    evaluated = self.samples_seen
                    bar.write(self._log(loss.item()))
                if time.monotonic() - saved > recipe.checkpoint_minutes * 60:
                    self._save()
                    saved = time.monotonic()
        if self.group.is_main:
            self._save()

    @property
    def finished(self) -> bool:
        """Whether all samples were seen, or the time limit is over."""
        return self.samples_seen >= self.recipe.samples or self.time_share >= 1

    def _steps(self, batches: Iterator[Batch]) -> Iterator[Tensor]:
        """Yield the smoothed loss after each step, as a tensor: reading it waits for a GPU."""
        mean_loss: Tensor | None = None
        while not self.finished and not self.group.any_true(self.stop):
            started = time.monotonic()
            loss = self._step(next(batches))
            mean_loss = loss if mean_loss is None else mean_loss.lerp(loss, SMOOTHING)
            self.samples_seen += self.recipe.batch
            self.seconds += time.monotonic() - started
            self.time_share = self._time_share()
            yield mean_loss

    def _step(self, batch: Batch) -> Tensor:
        recipe = self.recipe
        loss = self._loss(batch)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        rate = recipe.rate_at(self.samples_seen, self.warm_from, self.time_share)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        update_average(self.averaged, self.model, recipe.ema, self.samples_seen / recipe.batch)
        return loss.detach()

    def _log(self, loss: float) -> str:
        """Evaluate, append a row to the log, and return it as text."""
        row = {"views": self.samples_seen, "hours": self.seconds / 3600, "loss": loss}
        row |= self._evaluate()
        with (self.recipe.run / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return "  ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
        )

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "views": self.samples_seen,
            "seconds": self.seconds,
            "warm_from": self.warm_from,
        }
        for name, part in self.extra_state.items():
            state[name] = None if part is None else part.state_dict()
        temporary = self.last.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.last)
        self._ship(
            {
                "views": str(self.samples_seen),
                "seconds": f"{self.seconds:.0f}",
                "recipe": self.recipe.model_dump_json(),
            }
        )

    def _resume(self) -> None:
        state = torch.load(self.last, map_location=self.group.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for name, part in self.extra_state.items():
            if part is not None and state.get(name) is not None:
                part.load_state_dict(state[name])
        self.samples_seen, self.seconds = state["views"], state["seconds"]
        self.warm_from = state["warm_from"]
