"""`python -m tokenizer.train`: train a tokenizer on WebDataset shards; stop it at will, the same command goes on."""

import copy
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from torch import Tensor, nn
from tqdm import tqdm

from tokenizer import checkpoint, fidelity, inference
from tokenizer.bit_use import live_bits
from tokenizer.channeltok import SIZES, ChannelTok, draw_budgets
from tokenizer.data import evaluation_photos, training_batches
from tokenizer.muon import Muon
from tokenizer.quantize import factorised_entropy

matplotlib.use("Agg")


class TrainConfig(BaseSettings):
    """Train a ChannelTok. The run folder holds the checkpoint, a log and a learning curve; repeating the command resumes it."""

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_TRAIN_", cli_kebab_case=True, frozen=True, extra="forbid")
    run: Annotated[Path, Field(description="folder of this run; resumed when it holds a checkpoint")] = Path("runs/demo")
    train: Annotated[str, Field(description="training shards: a folder of .tar, one .tar, or a glob")] = "../shared/data/train"
    validation: Annotated[str, Field(description="validation shards, by the same rule")] = "../shared/data/val"
    size: Annotated[str, Field(description=f"which model: {', '.join(SIZES)}")] = "demo"
    start_from: Annotated[
        Path | None, Field(description="weights to go on from when the run folder has no checkpoint; their photos count as seen")
    ] = None
    views: Annotated[int, Field(ge=1, description="photos to see in all; the rate falls to a tenth over the last quarter")] = 150_000
    batch: Annotated[int, Field(ge=1, description="photos per step")] = 32
    rate: Annotated[float, Field(gt=0, description="peak learning rate, of Muon and of AdamW alike")] = 1.5e-3
    warmup_steps: Annotated[int, Field(ge=0, description="steps over which the rate rises from 0")] = 200
    weight_decay: Annotated[float, Field(ge=0, description="decoupled decay")] = 0.01
    clip: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 1.0
    keep_all: Annotated[float, Field(ge=0, le=1, description="tail-drop: the chance that a photo keeps all channels")] = 0.5
    entropy_weight: Annotated[float, Field(ge=0, description="weight of per-sample minus batch entropy (nats)")] = 0.0
    commitment_weight: Annotated[float, Field(ge=0, description="weight of the distance between latents and their codes")] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1, description="decay of the averaged weights, which are the ones shipped")] = 0.998
    precision: Annotated[
        Literal["fp32", "bf16"], Field(description="bf16 pays only where the processor has it (avx512_bf16, AMX): elsewhere 25x slower")
    ] = "fp32"
    seed: Annotated[int, Field(description="of weights, crops and budgets")] = 0
    evaluate_every: Annotated[int, Field(ge=1, description="views between evaluations on 96 validation photos")] = 8_000
    checkpoint_minutes: Annotated[float, Field(gt=0, description="time between checkpoints")] = 3.0

    def cli_cmd(self) -> None:
        Trainer(self).run()


VALIDATION_PHOTOS = 96


def optimisers(model: ChannelTok, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the weights of all convolutions but the first and the last; AdamW for those, which face pixels, and for biases and norms."""
    convolutions = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)][1:-1]
    by_muon = set(convolutions)
    others = [weight for weight in model.parameters() if weight not in by_muon]
    return [
        Muon(convolutions, config.rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, config.rate, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True),
    ]


class Trainer:
    """Holds what a checkpoint holds: model, averaged model, optimiser, views seen."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.model = ChannelTok(SIZES[config.size]) if config.start_from is None else checkpoint.load(config.start_from).train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimisers = optimisers(self.model, config)
        facts = {} if config.start_from is None else checkpoint.facts(config.start_from)
        self.views, self.seconds = int(facts.get("views", 0)), float(facts.get("seconds", 0))
        self.warm_from = self.views  # a new optimiser knows nothing yet of the scale of gradients, however good the weights
        self.stop = False
        self.last = config.run / "last.pt"
        if self.last.exists():
            self._resume()

    def run(self) -> None:
        """Train until `views` photos were seen, or until SIGINT or SIGTERM; both end with a checkpoint."""
        config = self.config
        config.run.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)
        size = self.model.shape.picture_size
        photos = evaluation_photos(config.validation, size, VALIDATION_PHOTOS)
        batches = training_batches(config.train, size, config.batch, config.seed + self.views)
        saved, evaluated = time.monotonic(), self.views
        with tqdm(total=config.views, initial=self.views, unit="photo", smoothing=0.05) as bar:
            for loss in self._steps(batches):
                bar.update(config.batch)
                if self.views // config.evaluate_every > evaluated // config.evaluate_every or self.views >= config.views:
                    evaluated = self.views
                    bar.write(self._evaluate(photos, loss))
                if time.monotonic() - saved > config.checkpoint_minutes * 60:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def _steps(self, batches: Iterator[Tensor]) -> Iterator[float]:
        mean_loss = 0.0
        while self.views < self.config.views and not self.stop:
            started = time.monotonic()
            loss = self._step(next(batches))
            mean_loss = loss if mean_loss == 0 else 0.98 * mean_loss + 0.02 * loss
            self.views += self.config.batch
            self.seconds += time.monotonic() - started
            yield mean_loss

    def _step(self, pixels: Tensor) -> float:
        config = self.config
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = config.rate * self._schedule()
        budgets = draw_budgets(len(pixels), self.model.shape.channels, config.keep_all)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            reconstruction, unit, active = self.model(pixels, budgets)
        loss = F.l1_loss(reconstruction.float(), pixels)
        if config.entropy_weight:
            entropy = factorised_entropy(unit, active)
            loss = loss + config.entropy_weight * (entropy.per_sample - entropy.batch)
        if config.commitment_weight:
            kept = unit.float()[active]
            loss = loss + config.commitment_weight * F.mse_loss(kept, kept.sign() * 0.25)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        with torch.no_grad():
            # A fixed decay would keep the random start alive in a short run, so it warms up.
            decay = min(config.ema, (1 + self.views / config.batch) / (10 + self.views / config.batch))
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay)
        return loss.item()

    def _schedule(self) -> float:
        """Share of the peak rate: up over the warm-up, flat, down to a tenth over the last quarter (so a run can be lengthened)."""
        config = self.config
        up = min(1.0, ((self.views - self.warm_from) / config.batch + 1) / max(1, config.warmup_steps))
        left = (config.views - self.views) / (0.25 * config.views)
        return up * (0.1 + 0.9 * min(1.0, max(0.0, left)))

    def _evaluate(self, photos: Any, loss: float) -> str:
        tokens = inference.encode(self.averaged, photos)
        row: dict[str, float] = {"views": self.views, "hours": self.seconds / 3600, "loss": loss, "live_bits": live_bits(tokens)}
        for k in inference.budgets(self.model.shape.channels):
            row[f"psnr_{k}"] = float(fidelity.psnr(photos, inference.decode(self.averaged, tokens, k)).mean())
        with (self.config.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        plot(self.config.run)
        return "  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())

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
        record = self.config.model_dump_json(include={"batch", "rate", "keep_all", "entropy_weight", "commitment_weight", "ema"})
        checkpoint.save(
            self.averaged,
            self.config.run / "weights.safetensors",
            {"views": str(self.views), "seconds": f"{self.seconds:.0f}", "recipe": record},
        )

    def _resume(self) -> None:
        state = torch.load(self.last, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.views, self.seconds, self.warm_from = state["views"], state["seconds"], state["warm_from"]

    def _ask_to_stop(self, *_: Any) -> None:
        self.stop = True


def plot(run: Path) -> None:
    """Draw `curve.png` from the run's log: PSNR by budget, and the share of live bits, against photos seen."""
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    views = [row["views"] / 1000 for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), width_ratios=(2, 1), layout="constrained")
    for k in inference.budgets(512):
        if f"psnr_{k}" in rows[-1]:
            left.plot(views, [row.get(f"psnr_{k}", math.nan) for row in rows], marker=".", label=f"k = {k}")
    left.set(xlabel="thousand photos seen", ylabel="PSNR, dB (96 validation photos)", title="Fidelity by budget")
    left.legend()
    right.plot(views, [100 * row["live_bits"] for row in rows], marker=".", color="black")
    right.set(xlabel="thousand photos seen", ylabel="bits used between 5 % and 95 %, %", ylim=(0, 102), title="Live bits")
    figure.savefig(run / "curve.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    CliApp.run(TrainConfig)
