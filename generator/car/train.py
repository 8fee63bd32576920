"""Trainers of the two stages of CAR: align (projector and head), then finetune (all weights)."""

from generator.car import model
from generator.car.model import Car
from generator.car.recipe import AlignRecipe, CarRecipe, FinetuneRecipe
from generator.training import GeneratorTrainer, Settings
from tokenizer.models.base import Tokenizer
from tokenizer.models.cvq import Cvq

CHECKPOINT = "car"  # in a run's folder


class CarTrainer(GeneratorTrainer[Car, Settings]):
    """Ships a checkpoint folder as generator.car.model writes it."""

    def _ship(self, record: dict[str, str]) -> None:
        model.save(self.averaged, self.recipe.run / CHECKPOINT, record)


class Align(CarTrainer[AlignRecipe]):
    """Stage one. Raises ValueError for another tokenizer than a CVQ, or no language model."""

    def _initial_model(self, tokenizer: Tokenizer) -> tuple[Car, dict[str, str]]:
        recipe = self.recipe
        if not isinstance(tokenizer, Cvq):
            raise ValueError(
                f"CAR reads codewords, and {recipe.tokenizer} is of the family "
                f"{tokenizer.family}: it needs cvq"
            )
        language, text = (
            model.local_language(recipe.language)
            if recipe.language
            else model.small_language(recipe.width, recipe.layers, recipe.heads, recipe.ffn_dim)
        )
        car = Car(
            language,
            text,
            tokenizer.codebook.entries,
            self.fingerprint,
            tokenizer.shape.channels,
            self.classes,
        )
        car.language.requires_grad_(False)
        return car, {}


class Finetune(CarTrainer[FinetuneRecipe]):
    """Stage two. Raises ValueError without a stage-one checkpoint of this tokenizer and classes."""

    def _initial_model(self, tokenizer: Tokenizer) -> tuple[Car, dict[str, str]]:
        start = self.recipe.start_from
        car = model.load(start)
        self._check_start(start, car.tokenizer, car.classes)
        return car.train(), {}


class AlignCommand(AlignRecipe):
    __doc__ = f"{AlignRecipe.__doc__} {CarRecipe.__doc__}"

    def cli_cmd(self) -> None:
        Align(self).run()


class FinetuneCommand(FinetuneRecipe):
    __doc__ = f"{FinetuneRecipe.__doc__} {CarRecipe.__doc__}"

    def cli_cmd(self) -> None:
        Finetune(self).run()
