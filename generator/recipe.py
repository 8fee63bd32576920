"""Training recipe of a generator: settings on top of those of any training run.

`python -m generator.train --help` prints them.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tokenizer.training.recipe import BaseRecipe


class GeneratorRecipe(BaseRecipe):
    """Settings of any model that predicts a tokenizer's tokens.

    A member `class/photo.jpg` of a training shard is a photo of that class.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_GENERATOR_")
    run: Annotated[
        Path,
        Field(description="run folder; resumed when it holds a checkpoint", exclude=True),
    ] = Path("runs/generator")
    tokenizer: Annotated[
        Path,
        Field(description="checkpoint of the tokenizer whose tokens are learnt", exclude=True),
    ] = Path("tokenizer/weights/demo.safetensors")
    tokens: Annotated[
        Path, Field(description="folder that caches the encoded photos", exclude=True)
    ] = Path("runs/tokens")
    passes: Annotated[
        int,
        Field(
            ge=1,
            description="how many times each training photo is encoded: as it is, mirrored, then "
            "random crops of it",
        ),
    ] = 6

    width: Annotated[int, Field(ge=1, description="dimension of the hidden states")] = 320
    layers: Annotated[int, Field(ge=1, description="transformer layers")] = 4
    heads: Annotated[int, Field(ge=1, description="attention heads")] = 5
    ffn_dim: Annotated[int, Field(ge=1, description="width of the gated feed-forward layers")] = 880

    samples: Annotated[
        int, Field(ge=1, description="images to train on in total, repetitions counted")
    ] = 150_000
    batch: Annotated[int, Field(ge=1, description="images per step")] = 32
    class_dropout: Annotated[
        float, Field(ge=0, le=1, description="probability that a photo's class is hidden")
    ] = 0.1
    channel_slope: Annotated[
        float,
        Field(
            ge=0,
            description="the loss weight falls linearly from 1 + this (first token) to 1 (last)",
        ),
    ] = 1.0


class GptRecipe(GeneratorRecipe):
    """Train a GPT on a tokenizer's tokens. Repeating the command resumes the run.

    The run folder holds the checkpoint and a log. A setting is taken from the command line, else
    from CHANNELTOK_GENERATOR_<NAME>, else from the TOML file that CHANNELTOK_GENERATOR_RECIPE
    names. A member `class/photo.jpg` of a shard is a photo of that class.
    """

    start_from: Annotated[
        Path | None,
        Field(
            description="weights to start from when the run folder has no checkpoint: their "
            "samples count as seen, their size is kept",
            exclude=True,
        ),
    ] = None
