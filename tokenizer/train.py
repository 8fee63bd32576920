"""Command `python -m tokenizer.train`: train a tokenizer on WebDataset shards, or resume its run.

On many GPUs: `torchrun --nproc-per-node 8 -m tokenizer.train`, see tokenizer/recipes.
"""

import shutil
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from tokenizer import checkpoint, inference, parts
from tokenizer.evaluation import fidelity, learning_curve
from tokenizer.models import registry
from tokenizer.models.base import Tokenizer
from tokenizer.models.channeltok import ChannelTok, draw_budgets
from tokenizer.training import distributed
from tokenizer.training.data import evaluation_photos, training_batches
from tokenizer.training.images_in_memory import PhotosInMemory
from tokenizer.training.loop import RANK_SEED, Trainer
from tokenizer.training.losses import TrainingLosses
from tokenizer.training.recipe import TokenizerRecipe, run_command

VALIDATION_PHOTOS = 96
NARROW = "narrow_"  # in a checkpoint's metadata: begins the training record of narrow decoders


class TrainCommand(TokenizerRecipe):
    __doc__ = TokenizerRecipe.__doc__

    def cli_cmd(self) -> None:
        group = distributed.join(self.device)
        if group.device.type == "cuda":
            # TF32 for what bf16 autocast leaves in fp32, such as crops and losses.
            torch.set_float32_matmul_precision("high")
        else:
            # This flag covers the CPU too, where the backward pass of flash attention takes
            # 16 times as long in bfloat16 as in float32.
            torch.backends.cuda.enable_flash_sdp(False)
        try:
            TokenizerTrainer(self, group).run()
        finally:
            group.close()


class TokenizerTrainer(Trainer[Tokenizer, TokenizerRecipe, Tensor]):
    """Trains a tokenizer of any family with the losses of its recipe, and their discriminator."""

    def __init__(
        self, recipe: TokenizerRecipe, group: distributed.ProcessGroup | None = None
    ) -> None:
        """Raises ValueError for an unknown size, narrow decoders that the model cannot have, or a
        batch that processes cannot share evenly.
        """
        self.started = time.monotonic()
        group = group or distributed.ProcessGroup()
        if recipe.batch % group.count:
            raise ValueError(
                f"a batch of {recipe.batch} photos cannot be divided over {group.count} processes"
            )
        torch.manual_seed(recipe.seed)
        model = _model(recipe)
        model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.losses = TrainingLosses(recipe).to(group.device)
        discriminator = self.losses.discriminator
        self.discriminator_optimiser = (
            None
            if discriminator is None
            else torch.optim.AdamW(discriminator.parameters(), recipe.gan_rate, betas=(0.5, 0.9))
        )
        super().__init__(
            recipe,
            model,
            model.inner_weights(),
            record=_record(recipe, model),
            group=group,
            extra_state={"discriminator": discriminator, "adversary": self.discriminator_optimiser},
        )
        if group.is_main:
            self.validation = evaluation_photos(
                recipe.validation, model.shape.image_size, VALIDATION_PHOTOS
            )

    def _batches(self, seed: int) -> Iterator[Tensor]:
        recipe, group = self.recipe, self.group
        size, batch = self.model.shape.image_size, recipe.batch // group.count
        if recipe.photos_in_memory:
            photos = PhotosInMemory.from_shards(recipe.train, group.device)
            return photos.batches(
                size,
                batch,
                seed,
                min_area=recipe.crop_area,
                colour=recipe.colour,
                rank=group.rank,
                processes=group.count,
            )
        return training_batches(
            recipe.train,
            size,
            batch,
            seed + RANK_SEED * group.rank,
            recipe.workers,
            recipe.crop_area,
        )

    def _time_share(self) -> float:
        if self.recipe.minutes is None:
            return 0.0
        # One clock for all processes, or their rates and ends would differ.
        passed = self.group.maximum(time.monotonic() - self.started)
        return passed / (60 * self.recipe.minutes)

    def _step(self, batch: Tensor) -> Tensor:
        pixels = batch.to(self.group.device)
        loss = super()._step(pixels)
        if self.discriminator_optimiser and self.samples_seen >= self.recipe.gan_from:
            self.discriminator_optimiser.zero_grad()
            self.losses.discriminator_loss(pixels, self.reconstruction).backward()
            self.group.average_gradients(self.losses)
            self.discriminator_optimiser.step()
        return loss

    def _loss(self, batch: Tensor) -> Tensor:
        channels, share = self.model.shape.channels, self.recipe.full_length_probability
        budgets = draw_budgets(len(batch), channels, share).to(batch.device)
        with self.autocast():
            outputs = self.train_model(batch, budgets)
        self.reconstruction = outputs[0].detach()
        return self.model.loss(self.losses, batch, outputs, self.samples_seen)

    def _evaluate(self) -> dict[str, float]:
        """Code usage, and PSNR at each reported budget."""
        averaged, photos = self.averaged, self.validation
        tokens = inference.encode(averaged, photos)
        metrics = {averaged.usage_name: averaged.usage(tokens)}
        for k in inference.budgets(averaged.shape.channels):
            decoded = inference.decode(averaged, tokens, k)
            metrics[f"psnr_{k}"] = float(fidelity.psnr(photos, decoded).mean())
        return metrics

    def _log(self, loss: float) -> str:
        line = super()._log(loss)
        learning_curve.plot(self.recipe.run / "log.jsonl", self.recipe.run / "curve.png")
        return line

    def _ship(self, record: dict[str, str]) -> None:
        run, folder = self.recipe.run, self.recipe.deliver
        weights = run / "weights.safetensors"
        if self.model.narrow_budgets:  # the record of all else stays
            assert self.recipe.start_from is not None
            whole = checkpoint.facts(self.recipe.start_from)
            del whole["shape"]
            record = whole | {NARROW + name: value for name, value in record.items()}
        checkpoint.save(self.averaged, weights, record)
        if folder is not None:
            parts.split(weights, folder)
            for name in ("log.jsonl", "curve.png"):
                if (run / name).exists():  # the first evaluation writes them
                    shutil.copyfile(run / name, folder / name)


def _model(recipe: TokenizerRecipe) -> Tokenizer:
    """The model to train. Only its narrow decoders need a gradient where it has any."""
    start, narrow = recipe.start_from, recipe.narrow_decoders
    if start is None:
        if narrow:
            raise ValueError("narrow decoders need a trained tokenizer: pass it as --start-from")
        return registry.build(recipe.size)
    model = checkpoint.load(start).train()
    if narrow is not None:
        if not isinstance(model, ChannelTok):
            raise ValueError(f"{model.title} has no narrow decoders")
        model = model.with_narrow_decoders(narrow)
    if model.narrow_budgets:
        model.encoder.requires_grad_(False)
        model.decoder.requires_grad_(False)
    return model


def _record(recipe: TokenizerRecipe, model: Tokenizer) -> dict[str, str]:
    """Training record of what the recipe starts from and trains; empty where that is new."""
    if recipe.start_from is None:
        return {}
    facts = checkpoint.facts(recipe.start_from)
    if not model.narrow_budgets:
        return facts
    if recipe.narrow_decoders is not None:
        return {}
    return {
        name.removeprefix(NARROW): value for name, value in facts.items() if name.startswith(NARROW)
    }


if __name__ == "__main__":
    run_command(TrainCommand)
