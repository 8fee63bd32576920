"""Training recipe of a generator: settings on top of those of any training run.

`python -m generator.train --help` prints them.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tokenizer.training.recipe import BaseRecipe


class GeneratorRecipe(BaseRecipe):
    """Settings of any model that predicts a tokenizer's tokens.

    A member `class/photo.jpg` of a training shard is a photo of that class.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_GENERATOR_")
    run: Path = Field(
        Path("runs/generator"),
        exclude=True,
        description="run folder; resumed when it holds a checkpoint",
    )
    tokenizer: Path = Field(
        Path("tokenizer/weights/demo.safetensors"),
        exclude=True,
        description="checkpoint of the tokenizer whose tokens are learnt",
    )
    tokens: Path = Field(
        Path("runs/tokens"), exclude=True, description="folder that caches the encoded photos"
    )
    passes: int = Field(
        6,
        ge=1,
        description="how many times each training photo is encoded: as it is, mirrored, then "
        "random crops of it",
    )

    members: int = Field(
        1,
        ge=1,
        description="photos of classes with fewer training photos than this count as of no class",
    )

    width: int = Field(320, ge=1, description="dimension of the hidden states")
    layers: int = Field(4, ge=1, description="transformer layers")
    heads: int = Field(5, ge=1, description="attention heads")
    ffn_dim: int = Field(880, ge=1, description="width of the gated feed-forward layers")

    samples: int = Field(
        150_000, ge=1, description="images to train on in total, repetitions counted"
    )
    batch: int = Field(32, ge=1, description="images per step")
    class_dropout: float = Field(
        0.1, ge=0, le=1, description="probability that a photo's class is hidden"
    )
    channel_slope: float = Field(
        1.0,
        ge=0,
        description="the loss weight falls linearly from 1 + this (first token) to 1 (last)",
    )


class GptRecipe(GeneratorRecipe):
    """Train a GPT on a tokenizer's tokens. Repeating the command resumes the run.

    The run folder holds the checkpoint and a log. A setting is taken from the command line, else
    from CHANNELTOK_GENERATOR_<NAME>, else from the TOML file that CHANNELTOK_GENERATOR_RECIPE
    names. A member `class/photo.jpg` of a shard is a photo of that class.
    """

    start_from: Path | None = Field(
        None,
        exclude=True,
        description="weights to start from when the run folder has no checkpoint: their samples "
        "count as seen, their size is kept",
    )
    transfer_from: Path | None = Field(
        None,
        exclude=True,
        description="weights to begin with instead, of other classes, or of a tokenizer that this "
        "one was trained further from: no samples count as seen, their size is kept",
    )
