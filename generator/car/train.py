"""The two stages a CAR is trained in."""

from generator.car import model
from generator.car.model import Car
from generator.car.recipe import AlignRecipe, CarRecipe, FinetuneRecipe
from generator.training import Settings, Trainer
from tokenizer.models.base import Tokenizer
from tokenizer.models.cvq import Cvq

CHECKPOINT = "car"  # in a run's folder


class CarTrainer(Trainer[Car, Settings]):
    """Leaves a folder as generator.car.model writes it."""

    def _ship(self, facts: dict[str, str]) -> None:
        model.save(self.averaged, self.recipe.run / CHECKPOINT, facts)


class Align(CarTrainer[AlignRecipe]):
    """Raises ValueError when the tokenizer is no CVQ, or the language model's folder holds none."""

    def _new(self, tokenizer: Tokenizer) -> Car:
        if not isinstance(tokenizer, Cvq):
            raise ValueError(
                f"CAR reads codewords, and {self.recipe.tokenizer} is of the family {tokenizer.family}: it needs cvq"
            )
        recipe = self.recipe
        language, text = (
            model.local_language(recipe.language)
            if recipe.language
            else model.small_language(recipe.width, recipe.layers, recipe.heads, recipe.inside)
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
        return car


class Finetune(CarTrainer[FinetuneRecipe]):
    """Raises ValueError when stage one left nothing, or left it for another tokenizer or other classes."""

    def _new(self, tokenizer: Tokenizer) -> Car:
        start = self.recipe.start_from
        car = model.load(start)
        self._must_fit(start, car.tokenizer, car.classes)
        return car.train()


class AlignCommand(AlignRecipe):
    __doc__ = f"{AlignRecipe.__doc__} {CarRecipe.__doc__}"

    def cli_cmd(self) -> None:
        Align(self).run()


class FinetuneCommand(FinetuneRecipe):
    __doc__ = f"{FinetuneRecipe.__doc__} {CarRecipe.__doc__}"

    def cli_cmd(self) -> None:
        Finetune(self).run()
