"""Trainer shared by all generators: autoregressive models of the tokens of a tokenizer."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from generator.recipe import GeneratorRecipe
from generator.token_model import TokenModel, bits_per_token, channel_weights
from generator.tokens import NO_CLASS, encode_dataset
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.training.loop import Trainer

PREFIXES = (1, 8, 32, 64, 128, 256)  # the log has the mean over the first n tokens for each
VALIDATION_PHOTOS = 256
EVALUATION_BATCH = 32

Model = TypeVar("Model", bound=TokenModel)
Settings = TypeVar("Settings", bound=GeneratorRecipe)


class GeneratorTrainer(Trainer[Model, Settings, tuple[Tensor, Tensor]]):
    """Trains a model of (token ids int32 [B, C], class ids int64 [B]) on a dataset encoded once."""

    def __init__(self, recipe: Settings) -> None:
        self.recipe = recipe
        tokenizer = tokenizer_checkpoint.load(recipe.tokenizer)
        self.fingerprint = tokenizer_checkpoint.fingerprint(tokenizer)
        passes = encode_dataset(tokenizer, recipe.train, recipe.passes, recipe.tokens)
        (validation,) = encode_dataset(tokenizer, recipe.validation, 1, recipe.tokens)
        members = Counter(passes[0].classes)
        self.classes = sorted(name for name in members if members[name] >= recipe.members)
        # uint16 [passes, N, C], kept in memory: each sample is a photo in one of its passes.
        self.tokens = np.stack([photos.tokens for photos in passes]).astype(np.uint16)
        self.labels = torch.from_numpy(passes[0].labels(self.classes))
        first = slice(VALIDATION_PHOTOS)
        self.validation = (
            torch.from_numpy(validation.tokens[first]),
            torch.from_numpy(validation.labels(self.classes)[first]),
        )
        self.weights = channel_weights(tokenizer.shape.channels, recipe.channel_slope)
        torch.manual_seed(recipe.seed)
        model, record = self._initial_model(tokenizer)
        super().__init__(recipe, model, model.inner_weights(), record=record)

    @abstractmethod
    def _initial_model(self, tokenizer: Tokenizer) -> tuple[Model, dict[str, str]]:
        """The model to train and the training record it comes with, empty for a new model.

        Weights without `requires_grad` stay as they are.
        """

    def _check_start(self, start: Path, tokenizer: str, classes: list[str]) -> None:
        """Raise ValueError if `start` was trained with another tokenizer or other classes."""
        recipe = self.recipe
        if tokenizer != self.fingerprint:
            raise ValueError(
                f"{start} was trained on tokens of tokenizer {tokenizer}, but {recipe.tokenizer} "
                f"is {self.fingerprint}"
            )
        if classes != self.classes:
            raise ValueError(
                f"{start} was trained on {len(classes)} classes, and {recipe.train} has other ones"
            )

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        recipe = self.recipe
        while True:
            photos = torch.randint(len(self.labels), (recipe.batch,))
            passes = torch.randint(len(self.tokens), (recipe.batch,))
            hidden = torch.rand(recipe.batch) < recipe.class_dropout
            tokens = torch.from_numpy(self.tokens[passes, photos].astype(np.int32))
            yield tokens, torch.where(hidden, NO_CLASS, self.labels[photos])

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        with self.autocast():
            nll: Tensor = self.train_model(*batch)
        return (nll * self.weights).mean()

    @torch.inference_mode()
    def _evaluate(self) -> dict[str, float]:
        """Bits per token, as means over the first tokens."""
        batches = zip(*(part.split(EVALUATION_BATCH) for part in self.validation), strict=True)
        nll = torch.cat([self.averaged(tokens, labels) for tokens, labels in batches])
        return {f"bits_{k}": bits_per_token(nll[:, :k]) for k in PREFIXES if k <= nll.shape[1]}
