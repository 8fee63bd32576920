"""What decides how a CAR is trained, beside what decides it for any generator."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from generator.recipe import GeneratorRecipe


class CarRecipe(GeneratorRecipe):
    """Train a language model to foretell channels; repeating the command resumes it.

    A setting is taken from the command line, else from CHANNELTOK_CAR_<NAME>, else from the TOML file that CHANNELTOK_CAR_RECIPE names. A
    member `class/photo.jpg` of a shard is a photo of that class, and its text is 'a photo of class'. For a pretrained language model take
    `--optimiser adamw --rate 1e-4`: the rate here is one for random weights.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_CAR_")
    tokenizer: Annotated[
        Path, Field(description="checkpoint of the CVQ tokenizer whose codewords it learns")
    ] = Path("tokenizer/weights/cvq.safetensors")
    width: Annotated[
        int, Field(ge=1, description="numbers of a position, of a random language model")
    ] = 256
    layers: Annotated[
        int, Field(ge=1, description="how many of attention and gated units, of a random one")
    ] = 4
    heads: Annotated[int, Field(ge=1, description="of attention, of a random one")] = 4
    inside: Annotated[int, Field(ge=1, description="width of the gated units, of a random one")] = (
        704
    )
    channel_slope: Annotated[
        float,
        Field(
            ge=0, description="how much more the first token counts than the last: 1 + this to 1"
        ),
    ] = 0.0


class AlignRecipe(CarRecipe):
    """Stage one: the language model stays as it is; projector and head learn to speak with it."""

    run: Annotated[
        Path, Field(description="folder of this run; resumed when it holds a checkpoint")
    ] = Path("runs/car-align")
    language: Annotated[
        Path | None,
        Field(
            description="folder of a decoder-only language model as transformers writes it; a small random Qwen3 without"
        ),
    ] = None
    views: Annotated[int, Field(ge=1, description="photos to see in all")] = 16_000


class FinetuneRecipe(CarRecipe):
    """Stage two: all of it learns, from where stage one ended."""

    run: Annotated[
        Path, Field(description="folder of this run; resumed when it holds a checkpoint")
    ] = Path("runs/car")
    start_from: Annotated[Path, Field(description="`car` folder of a run of stage one")] = Path(
        "runs/car-align/car"
    )
    views: Annotated[int, Field(ge=1, description="photos to see in all")] = 100_000
