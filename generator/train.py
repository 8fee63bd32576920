"""`python -m generator.train`: train a generator on the tokens of WebDataset shards; stop it at will, the same command goes on."""

import sys

from pydantic_settings import CliApp

from generator import checkpoint
from generator.checkpoint import Generator
from generator.gpt import Gpt, GptShape
from generator.recipe import GptRecipe
from generator.training import Trainer
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer.models.base import Tokenizer


class TrainCommand(GptRecipe):
    __doc__ = GptRecipe.__doc__

    def cli_cmd(self) -> None:
        GptTrainer(self).run()


class GptTrainer(Trainer[Gpt, GptRecipe]):
    """Of a GPT whose size the recipe tells, or of one that was trained before.

    Raises ValueError when that one reads another tokenizer's tokens, or knows other classes.
    """

    def _new(self, tokenizer: Tokenizer) -> Gpt:
        recipe = self.recipe
        if recipe.start_from is not None:
            start, facts = (
                checkpoint.load(recipe.start_from),
                tokenizer_checkpoint.facts(recipe.start_from),
            )
            self._must_fit(recipe.start_from, start.tokenizer, start.classes)
            self.views, self.seconds = int(facts.get("views", 0)), float(facts.get("seconds", 0))
            return start.model.train()
        return GptShape(
            channels=tokenizer.shape.channels,
            codes=tokenizer.codes,
            classes=len(self.classes),
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            inside=recipe.inside,
            prediction="bits" if tokenizer.codes == 2**16 else "softmax",
        ).build()

    def _ship(self, facts: dict[str, str]) -> None:
        checkpoint.save(
            Generator(self.averaged, self.fingerprint, self.classes),
            self.recipe.run / "weights.safetensors",
            facts,
        )


if __name__ == "__main__":
    try:
        CliApp.run(TrainCommand)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
