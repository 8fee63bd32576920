"""`python -m generator.train`: train a generator on the tokens of WebDataset shards; stop it at will, the same command goes on."""

from pydantic_settings import CliApp

from generator import checkpoint
from generator.checkpoint import Generator
from generator.gpt import Gpt, GptShape
from generator.recipe import GeneratorRecipe
from generator.training import Trainer
from tokenizer.family import Tokenizer


class TrainCommand(GeneratorRecipe):
    __doc__ = GeneratorRecipe.__doc__

    def cli_cmd(self) -> None:
        GptTrainer(self).run()


class GptTrainer(Trainer[Gpt, GeneratorRecipe]):
    """Of a GPT whose size the recipe tells."""

    def _new(self, tokenizer: Tokenizer) -> Gpt:
        recipe = self.recipe
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
        checkpoint.save(Generator(self.averaged, self.fingerprint, self.classes), self.recipe.run / "weights.safetensors", facts)


if __name__ == "__main__":
    CliApp.run(TrainCommand)
