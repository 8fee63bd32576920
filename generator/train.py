"""Command `python -m generator.train`: train a GPT on a tokenizer's tokens, or resume its run."""

import sys

from generator import checkpoint
from generator.checkpoint import Generator
from generator.gpt import Gpt, GptShape
from generator.recipe import GptRecipe
from generator.training import GeneratorTrainer
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.training.recipe import run_command


class TrainCommand(GptRecipe):
    __doc__ = GptRecipe.__doc__

    def cli_cmd(self) -> None:
        GptTrainer(self).run()


class GptTrainer(GeneratorTrainer[Gpt, GptRecipe]):
    """Trains a new GPT of the recipe's size, or continues from the weights in `start_from`.

    Raises ValueError when those weights belong to another tokenizer or other classes.
    """

    def _initial_model(self, tokenizer: Tokenizer) -> tuple[Gpt, dict[str, str]]:
        recipe, start = self.recipe, self.recipe.start_from
        if start is not None:
            generator = checkpoint.load(start)
            self._check_start(start, generator.tokenizer, generator.classes)
            return generator.model.train(), tokenizer_checkpoint.facts(start)
        shape = GptShape(
            channels=tokenizer.shape.channels,
            vocab_size=tokenizer.vocab_size,
            classes=len(self.classes),
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            ffn_dim=recipe.ffn_dim,
            prediction="bits" if tokenizer.vocab_size == 2**16 else "softmax",
        )
        return shape.build(), {}

    def _ship(self, record: dict[str, str]) -> None:
        generator = Generator(self.averaged, self.fingerprint, self.classes)
        checkpoint.save(generator, self.recipe.run / "weights.safetensors", record)


if __name__ == "__main__":
    try:
        run_command(TrainCommand)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
