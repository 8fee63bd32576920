"""Everything that decides how a generator is trained. `python -m generator.train --help` prints it."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tokenizer.training.recipe import Schedule


class GeneratorRecipe(Schedule):
    """What decides how anything is trained that foretells a tokenizer's tokens."""

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_GENERATOR_")
    run: Annotated[
        Path, Field(description="folder of this run; resumed when it holds a checkpoint")
    ] = Path("runs/generator")
    tokenizer: Annotated[
        Path, Field(description="checkpoint of the tokenizer whose tokens it learns")
    ] = Path("tokenizer/weights/demo.safetensors")
    tokens: Annotated[Path, Field(description="folder in which encoded photos are kept")] = Path(
        "runs/tokens"
    )
    passes: Annotated[
        int,
        Field(
            ge=1,
            description="times each training photo is encoded: as it is, mirrored, then random crops of it",
        ),
    ] = 6

    width: Annotated[int, Field(ge=1, description="numbers of a position")] = 320
    layers: Annotated[int, Field(ge=1, description="how many of attention and gated units")] = 4
    heads: Annotated[int, Field(ge=1, description="of attention")] = 5
    inside: Annotated[int, Field(ge=1, description="width of the gated units")] = 880

    views: Annotated[int, Field(ge=1, description="photos to see in all")] = 150_000
    batch: Annotated[int, Field(ge=1, description="photos per step")] = 32
    compile: Annotated[
        bool,
        Field(
            description="fuse the step with torch.compile: the first takes a minute, each later one a third; needs a C++ compiler"
        ),
    ] = False
    class_dropout: Annotated[
        float, Field(ge=0, le=1, description="chance that a photo's class is hidden")
    ] = 0.1
    channel_slope: Annotated[
        float,
        Field(
            ge=0, description="how much more the first token counts than the last: 1 + this to 1"
        ),
    ] = 1.0


class GptRecipe(GeneratorRecipe):
    """Train a GPT on a tokenizer's tokens. The run folder holds the checkpoint and a log; repeating the command resumes it.

    A setting is taken from the command line, else from CHANNELTOK_GENERATOR_<NAME>, else from the TOML file that
    CHANNELTOK_GENERATOR_RECIPE names. A member `class/photo.jpg` of a shard is a photo of that class.
    """

    start_from: Annotated[
        Path | None,
        Field(
            description="weights to go on from when the run folder has no checkpoint: their photos count as seen, their size is kept"
        ),
    ] = None
