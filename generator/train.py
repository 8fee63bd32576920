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
    """Trains a new GPT of the recipe's size, or continues from other weights.

    Raises ValueError when those in `start_from` belong to another tokenizer or other classes, and
    those in `transfer_from` to sequences of another length or vocabulary.
    """

    def _initial_model(self, tokenizer: Tokenizer) -> tuple[Gpt, dict[str, str]]:
        recipe, start = self.recipe, self.recipe.start_from
        if start is not None and recipe.transfer_from is not None:
            raise ValueError("give start_from or transfer_from, not both")
        if start is not None:
            generator = checkpoint.load(start)
            self._check_start(start, generator.tokenizer, generator.classes)
            return generator.model.train(), tokenizer_checkpoint.facts(start)
        if recipe.transfer_from is not None:
            source = checkpoint.load(recipe.transfer_from)
            made = (source.model.shape.channels, source.model.shape.vocab_size)
            wanted = (tokenizer.shape.channels, tokenizer.vocab_size)
            if made != wanted:
                raise ValueError(
                    "{} makes {} tokens of {} values, and {} has {} of {}".format(
                        recipe.transfer_from, *made, recipe.tokenizer, *wanted
                    )
                )
            return with_classes(source, self.classes).train(), {}
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


def with_classes(generator: Generator, classes: list[str]) -> Gpt:
    """A copy of the model for other classes, in their order.

    Each has the embedding of the class of its name, a new one that of no class.
    """
    rows = [generator.classes.index(name) if name in generator.classes else -1 for name in classes]
    weights = generator.model.state_dict()
    weights["classes.weight"] = weights["classes.weight"][[*rows, -1]]
    model = generator.model.shape.model_copy(update={"classes": len(classes)}).build()
    model.load_state_dict(weights)
    return model


if __name__ == "__main__":
    try:
        run_command(TrainCommand)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
