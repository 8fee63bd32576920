"""Training recipes of the two stages of CAR, on top of those of any generator."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from generator.recipe import GeneratorRecipe


class CarRecipe(GeneratorRecipe):
    """Train a language model to predict channels; repeating the command resumes it.

    A setting is taken from the command line, else from CHANNELTOK_CAR_<NAME>, else from the TOML
    file that CHANNELTOK_CAR_RECIPE names. A member `class/photo.jpg` of a shard is a photo of that
    class, and its text is 'a photo of class'. The default rate suits random weights: for a
    pretrained language model use `--optimiser adamw --rate 1e-4`.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_CAR_")
    tokenizer: Annotated[
        Path,
        Field(
            description="checkpoint of the CVQ tokenizer whose codewords are learnt", exclude=True
        ),
    ] = Path("tokenizer/weights/cvq.safetensors")
    width: Annotated[
        int, Field(ge=1, description="dimension of the hidden states of a random language model")
    ] = 256
    layers: Annotated[
        int, Field(ge=1, description="transformer layers of a random language model")
    ] = 4
    heads: Annotated[int, Field(ge=1, description="attention heads of a random language model")] = 4
    ffn_dim: Annotated[
        int, Field(ge=1, description="width of a random language model's feed-forward layers")
    ] = 704
    channel_slope: Annotated[
        float,
        Field(
            ge=0,
            description="the loss weight falls linearly from 1 + this (first token) to 1 (last)",
        ),
    ] = 0.0


class AlignRecipe(CarRecipe):
    """Stage one: the language model is frozen; projector and head train."""

    run: Annotated[
        Path,
        Field(description="run folder; resumed when it holds a checkpoint", exclude=True),
    ] = Path("runs/car-align")
    language: Annotated[
        Path | None,
        Field(
            description="folder of a decoder-only language model as transformers writes it; "
            "default: a small random Qwen3",
            exclude=True,
        ),
    ] = None
    samples: Annotated[
        int, Field(ge=1, description="images to train on in total, repetitions counted")
    ] = 16_000


class FinetuneRecipe(CarRecipe):
    """Stage two: all weights train, starting from the end of stage one."""

    run: Annotated[
        Path,
        Field(description="run folder; resumed when it holds a checkpoint", exclude=True),
    ] = Path("runs/car")
    start_from: Annotated[
        Path, Field(description="`car` folder of a run of stage one", exclude=True)
    ] = Path("runs/car-align/car")
    samples: Annotated[
        int, Field(ge=1, description="images to train on in total, repetitions counted")
    ] = 100_000
