"""How a model that foretells an image's tokens is trained: whatever foretells them, the run is the same."""

import copy
import json
import os
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from generator.recipe import GeneratorRecipe
from generator.token_model import TokenModel, bits_per_token, channel_weights
from generator.tokens import NO_CLASS, encoded
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.train import follow, optimisers
from tokenizer.training.distributed import uses_bf16

PREFIXES = (1, 8, 32, 64, 128, 256)  # the log has the mean over the first so many tokens
VALIDATION_PHOTOS = 256
EVALUATION_BATCH = 32
# What of the recipe a checkpoint does not tell: where things lie, and how often they are looked at.
_NOT_RECORDED = {
    "run",
    "train",
    "validation",
    "tokenizer",
    "tokens",
    "language",
    "start_from",
    "evaluate_every",
    "checkpoint_minutes",
    "compile",
}

Model = TypeVar("Model", bound=TokenModel)
Settings = TypeVar("Settings", bound=GeneratorRecipe)


class Trainer(ABC, Generic[Model, Settings]):
    """Holds what a checkpoint holds: model, averaged model, optimisers, views seen."""

    def __init__(self, recipe: Settings) -> None:
        self.recipe = recipe
        tokenizer = tokenizer_checkpoint.load(recipe.tokenizer)
        self.fingerprint = tokenizer_checkpoint.fingerprint(tokenizer)
        passes = encoded(tokenizer, recipe.train, recipe.passes, recipe.tokens)
        (validation,) = encoded(tokenizer, recipe.validation, 1, recipe.tokens)
        self.classes = sorted(set(passes[0].classes))
        # uint16 [passes, N, C]: all stay in memory, and every step takes a photo in one of its passes
        self.tokens = np.stack([photos.tokens for photos in passes]).astype(np.uint16)
        self.labels = torch.from_numpy(passes[0].labels(self.classes))
        kept = slice(VALIDATION_PHOTOS)
        self.validation = (
            torch.from_numpy(validation.tokens[kept]),
            torch.from_numpy(validation.labels(self.classes)[kept]),
        )
        torch.manual_seed(recipe.seed)
        self.views, self.seconds = 0, 0.0
        self.model = self._new(tokenizer)
        self.fused = (
            torch.compile(self.model) if recipe.compile else self.model
        )  # the same weights; only steps are worth it
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimisers = optimisers(
            [weight for weight in self.model.parameters() if weight.requires_grad],
            [weight for weight in self.model.inner_weights() if weight.requires_grad],
            recipe,
        )
        self.weights = channel_weights(tokenizer.shape.channels, recipe.channel_slope)
        self.warm_from = (
            self.views
        )  # a new optimiser knows nothing yet of the scale of gradients, however good the weights
        self.stop = False
        self.last = recipe.run / "last.pt"
        if self.last.exists():
            self._resume()

    @abstractmethod
    def _new(self, tokenizer: Tokenizer) -> Model:
        """The model that training begins with; a weight that needs no gradient stays as it is. It may count photos as seen already."""

    @abstractmethod
    def _ship(self, facts: dict[str, str]) -> None:
        """Leave the averaged model in the run folder, with the training record."""

    def _must_fit(self, start: Path, tokenizer: str, classes: list[str]) -> None:
        """Raises ValueError when `start` was trained on tokens or classes that are not this run's."""
        recipe = self.recipe
        if tokenizer != self.fingerprint:
            raise ValueError(
                f"{start} reads tokens of {tokenizer}, and {recipe.tokenizer} makes those of {self.fingerprint}"
            )
        if classes != self.classes:
            raise ValueError(
                f"{start} was trained on {len(classes)} classes, and {recipe.train} has other ones"
            )

    def run(self) -> None:
        """Train until `views` photos were seen, or until SIGINT or SIGTERM; both end with a checkpoint."""
        recipe = self.recipe
        recipe.run.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)
        torch.manual_seed(
            recipe.seed + self.views
        )  # a resumed run must not draw its first photos again
        saved, mean_loss = time.monotonic(), 0.0
        with tqdm(total=recipe.views, initial=self.views, unit="photo", smoothing=0.05) as bar:
            while self.views < recipe.views and not self.stop:
                started, before = time.monotonic(), self.views
                loss = self._step(*self._draw())
                mean_loss = loss if mean_loss == 0 else 0.98 * mean_loss + 0.02 * loss
                self.views += recipe.batch
                self.seconds += time.monotonic() - started
                bar.update(recipe.batch)
                if (
                    self.views // recipe.evaluate_every > before // recipe.evaluate_every
                    or self.views >= recipe.views
                ):
                    bar.write(self._evaluate(mean_loss))
                if time.monotonic() - saved > recipe.checkpoint_minutes * 60:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def _draw(self) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        photos = torch.randint(len(self.labels), (recipe.batch,))
        passes = torch.randint(len(self.tokens), (recipe.batch,))
        hidden = torch.rand(recipe.batch) < recipe.class_dropout
        return torch.from_numpy(self.tokens[passes, photos].astype(np.int32)), torch.where(
            hidden, NO_CLASS, self.labels[photos]
        )

    def _step(self, tokens: Tensor, labels: Tensor) -> float:
        recipe = self.recipe
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=uses_bf16(recipe.precision, tokens.device)
        ):
            nll = self.fused(tokens, labels)
        loss = (nll * self.weights).mean()
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(self.views, self.warm_from)
            optimiser.step()
        follow(self.averaged, self.model, recipe.ema, self.views / recipe.batch)
        return loss.item()

    @torch.inference_mode()
    def _evaluate(self, loss: float) -> str:
        parts = zip(*(part.split(EVALUATION_BATCH) for part in self.validation), strict=True)
        nll = torch.cat([self.averaged(tokens, labels) for tokens, labels in parts])
        row: dict[str, float] = {"views": self.views, "hours": self.seconds / 3600, "loss": loss}
        for k in PREFIXES:
            if k <= nll.shape[1]:
                row[f"bits_{k}"] = bits_per_token(nll[:, :k])
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
            "views": self.views,
            "seconds": self.seconds,
            "warm_from": self.warm_from,
        }
        temporary = self.last.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.last)
        recipe = self.recipe.model_dump_json(exclude=_NOT_RECORDED)
        self._ship({"views": str(self.views), "seconds": f"{self.seconds:.0f}", "recipe": recipe})

    def _resume(self) -> None:
        state = torch.load(self.last, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.views, self.seconds, self.warm_from = (
            state["views"],
            state["seconds"],
            state["warm_from"],
        )

    def _ask_to_stop(self, *_: Any) -> None:
        self.stop = True
