"""`python -m tokenizer.train`: train a tokenizer on WebDataset shards; stop it at will, the same command goes on.

On many GPUs: `torchrun --nproc-per-node 8 -m tokenizer.train`, see tokenizer/recipes.
"""

import copy
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic_settings import CliApp
from torch import Tensor, nn
from tqdm import tqdm

from tokenizer import checkpoint, inference, parts
from tokenizer.evaluation import fidelity, learning_curve
from tokenizer.models.base import Tokenizer
from tokenizer.models.channeltok import draw_budgets
from tokenizer.models.registry import SIZES
from tokenizer.training import distributed
from tokenizer.training.data import evaluation_photos, training_batches
from tokenizer.training.images_in_memory import PhotosInMemory
from tokenizer.training.losses import Objective
from tokenizer.training.muon import Muon
from tokenizer.training.recipe import Recipe, Schedule

VALIDATION_PHOTOS = 96
# What of the recipe a checkpoint tells; the rest is where things lie and how often they are looked at.
_RECORDED = set(Recipe.model_fields) - {
    "run",
    "train",
    "validation",
    "start_from",
    "workers",
    "photos_in_memory",
    "evaluate_every",
    "checkpoint_minutes",
    "device",
    "compile",
    "deliver",
}


class TrainCommand(Recipe):
    __doc__ = Recipe.__doc__

    def cli_cmd(self) -> None:
        group = distributed.join(self.device)
        if group.device.type == "cuda":
            # What bf16 leaves in fp32, such as the crops and the losses, may round to tf32.
            torch.set_float32_matmul_precision("high")
        else:
            # The flag is the CPU's too: there the backward pass of its flash attention takes 16 times as long in bfloat16 as in float32.
            torch.backends.cuda.enable_flash_sdp(False)
        try:
            Trainer(self, group).run()
        finally:
            group.close()


def optimisers(
    weights: Iterable[Tensor], inner: list[Tensor], recipe: Schedule
) -> list[torch.optim.Optimizer]:
    """Muon for the inner weights; AdamW for those that face pixels or codes, and for biases and norms, which do not decay."""
    by_muon = set(inner) if recipe.optimiser == "muon" else set()
    others = [weight for weight in weights if weight not in by_muon]
    groups = [
        {
            "params": [weight for weight in others if weight.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [weight for weight in others if weight.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, recipe.rate, betas=(0.9, 0.95), fused=True)
    return [
        *([Muon(inner, recipe.rate, weight_decay=recipe.weight_decay)] if by_muon else []),
        adamw,
    ]


@torch.no_grad()
def follow(averaged: nn.Module, model: nn.Module, decay: float, steps: float) -> None:
    """Move the averaged weights towards those of the model.

    steps: how many there were; a fixed decay would keep the random start alive in a short run, so it warms up.
    """
    decay = min(decay, (1 + steps) / (10 + steps))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
    for average, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
        average.copy_(buffer)


class Trainer:
    """Holds what a checkpoint holds: model, averaged model, optimisers, discriminator, views seen."""

    def __init__(self, recipe: Recipe, group: distributed.Processes | None = None) -> None:
        self.recipe = recipe
        self.group = group or distributed.Processes(0, 1, torch.device("cpu"))
        if recipe.batch % self.group.count:
            raise ValueError(
                f"a batch of {recipe.batch} photos cannot be divided over {self.group.count} processes"
            )
        self.started = time.monotonic()
        torch.manual_seed(recipe.seed)
        self.model: Tokenizer = (
            SIZES[recipe.size].build()
            if recipe.start_from is None
            else checkpoint.load(recipe.start_from).train()
        )
        self.model.to(self.group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimisers = optimisers(self.model.parameters(), self.model.inner_weights(), recipe)
        self.objective = Objective(recipe).to(self.group.device)
        discriminator = self.objective.discriminator
        self.adversary = (
            None
            if discriminator is None
            else torch.optim.AdamW(discriminator.parameters(), recipe.gan_rate, betas=(0.5, 0.9))
        )
        facts = {} if recipe.start_from is None else checkpoint.facts(recipe.start_from)
        self.views, self.seconds = int(facts.get("views", 0)), float(facts.get("seconds", 0))
        self.warm_from = (
            self.views
        )  # a new optimiser knows nothing yet of the scale of gradients, however good the weights
        self.stop = False
        self.time_share = 0.0  # of `minutes`
        self.last = recipe.run / "last.pt"
        if self.last.exists():
            self._resume()
        shared = self.group.share(self.model)
        self.shared = torch.compile(shared) if recipe.compile else shared  # the same weights
        self.bf16 = distributed.uses_bf16(recipe.precision, self.group.device)

    def run(self) -> None:
        """Train until `views` photos were seen, the minutes are over, or SIGINT or SIGTERM comes; all end with a checkpoint."""
        recipe = self.recipe
        recipe.run.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)
        size = self.model.shape.image_size
        # A resumed run must not see its first photos again, nor draw its first budgets.
        seed = recipe.seed + self.views
        torch.manual_seed(seed + 1_000_003 * self.group.rank)
        batches = self._batches(size, seed)
        photos = (
            evaluation_photos(recipe.validation, size, VALIDATION_PHOTOS)
            if self.group.first
            else None
        )
        saved, evaluated = time.monotonic(), self.views
        with tqdm(
            total=recipe.views,
            initial=self.views,
            unit="photo",
            smoothing=0.05,
            disable=not self.group.first,
        ) as bar:
            for loss in self._steps(batches):
                bar.update(recipe.batch)
                if photos is None:
                    continue
                if (
                    self.views // recipe.evaluate_every > evaluated // recipe.evaluate_every
                    or self.ended
                ):
                    evaluated = self.views
                    bar.write(self._evaluate(photos, loss.item()))
                if time.monotonic() - saved > recipe.checkpoint_minutes * 60:
                    self._save()
                    saved = time.monotonic()
        if self.group.first:
            self._save()

    def _batches(self, size: int, seed: int) -> Iterator[Tensor]:
        recipe, group = self.recipe, self.group
        batch = recipe.batch // group.count
        if recipe.photos_in_memory:
            photos = PhotosInMemory.from_shards(recipe.train, group.device)
            return photos.batches(
                size,
                batch,
                seed,
                least_area=recipe.crop_area,
                colour=recipe.colour,
                rank=group.rank,
                processes=group.count,
            )
        return training_batches(
            recipe.train,
            size,
            batch,
            seed + 1_000_003 * group.rank,
            recipe.workers,
            recipe.crop_area,
        )

    @property
    def ended(self) -> bool:
        """Whether all photos were seen, or the time is over."""
        return self.views >= self.recipe.views or self.time_share >= 1

    def _steps(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The mean loss after each step, a scalar on the device: to read it is to wait for a GPU."""
        mean_loss: Tensor | None = None
        while not self.ended and not self.group.any(self.stop):
            started = time.monotonic()
            loss = self._step(next(batches).to(self.group.device))
            mean_loss = loss if mean_loss is None else mean_loss.lerp(loss, 0.02)
            self.views += self.recipe.batch
            self.seconds += time.monotonic() - started
            if (
                self.recipe.minutes is not None
            ):  # one clock, or rates and ends of processes would differ
                passed = self.group.largest(time.monotonic() - self.started)
                self.time_share = passed / (60 * self.recipe.minutes)
            yield mean_loss

    def _step(self, pixels: Tensor) -> Tensor:
        recipe = self.recipe
        budgets = draw_budgets(len(pixels), self.model.shape.channels, recipe.keep_all).to(
            pixels.device
        )
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            passed = self.shared(pixels, budgets)
        loss = self.model.loss(self.objective, pixels, passed, self.views)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(self.views, self.warm_from, self.time_share)
            optimiser.step()
        if self.adversary is not None and self.views >= recipe.gan_from:
            self.adversary.zero_grad()
            self.objective.discriminator_loss(pixels, passed[0]).backward()
            self.group.average_gradients(self.objective)
            self.adversary.step()
        follow(self.averaged, self.model, recipe.ema, self.views / recipe.batch)
        return loss.detach()

    def _evaluate(self, photos: Any, loss: float) -> str:
        averaged = self.averaged
        tokens = inference.encode(averaged, photos)
        row: dict[str, float] = {
            "views": self.views,
            "hours": self.seconds / 3600,
            "loss": loss,
            averaged.use_name: averaged.use(tokens),
        }
        for k in inference.budgets(self.model.shape.channels):
            row[f"psnr_{k}"] = float(
                fidelity.psnr(photos, inference.decode(averaged, tokens, k)).mean()
            )
        log = self.recipe.run / "log.jsonl"
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        learning_curve.plot(log, self.recipe.run / "curve.png")
        return "  ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
        )

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "discriminator": None
            if self.objective.discriminator is None
            else self.objective.discriminator.state_dict(),
            "adversary": None if self.adversary is None else self.adversary.state_dict(),
            "views": self.views,
            "seconds": self.seconds,
            "warm_from": self.warm_from,
        }
        temporary = self.last.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.last)
        record = self.recipe.model_dump_json(include=_RECORDED)
        weights = self.recipe.run / "weights.safetensors"
        checkpoint.save(
            self.averaged,
            weights,
            {"views": str(self.views), "seconds": f"{self.seconds:.0f}", "recipe": record},
        )
        if self.recipe.deliver is not None:
            parts.split(weights, self.recipe.deliver)
            for name in ("log.jsonl", "curve.png"):
                if (self.recipe.run / name).exists():  # there is none before the first evaluation
                    shutil.copyfile(self.recipe.run / name, self.recipe.deliver / name)

    def _resume(self) -> None:
        state = torch.load(self.last, map_location=self.group.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        # A discriminator that the recipe adds to a run that had none starts anew.
        if (
            self.objective.discriminator is not None
            and self.adversary is not None
            and state["adversary"] is not None
        ):
            self.objective.discriminator.load_state_dict(state["discriminator"])
            self.adversary.load_state_dict(state["adversary"])
        self.views, self.seconds, self.warm_from = (
            state["views"],
            state["seconds"],
            state["warm_from"],
        )

    def _ask_to_stop(self, *_: Any) -> None:
        self.stop = True


if __name__ == "__main__":
    CliApp.run(TrainCommand)
