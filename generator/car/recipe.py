"""Training recipes of the two stages of CAR, on top of those of any generator."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from generator.recipe import GeneratorRecipe


class CarRecipe(GeneratorRecipe):
    """Train a language model to predict channels; repeating the command resumes it.

    A setting is taken from the command line, else from CHANNELTOK_CAR_<NAME>, else from the TOML
    file that CHANNELTOK_CAR_RECIPE names. A member `class/photo.jpg` of a shard is a photo of that
    class, which its text names in a template drawn anew each time (`model.TEMPLATES`). The default
    rate suits random weights: for a pretrained language model use `--optimiser adamw --rate 1e-4`.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_CAR_")
    tokenizer: Path = Field(
        Path("tokenizer/weights/cvq.safetensors"),
        exclude=True,
        description="checkpoint of the CVQ tokenizer whose codewords are learnt",
    )
    width: int = Field(
        256, ge=1, description="dimension of the hidden states of a random language model"
    )
    layers: int = Field(4, ge=1, description="transformer layers of a random language model")
    heads: int = Field(4, ge=1, description="attention heads of a random language model")
    ffn_dim: int = Field(
        704, ge=1, description="width of a random language model's feed-forward layers"
    )
    channel_slope: float = Field(
        0.0,
        ge=0,
        description="the loss weight falls linearly from 1 + this (first token) to 1 (last)",
    )


class AlignRecipe(CarRecipe):
    """Stage one: the language model is frozen; projector and head train."""

    run: Path = Field(
        Path("runs/car-align"),
        exclude=True,
        description="run folder; resumed when it holds a checkpoint",
    )
    language: Path | None = Field(
        None,
        exclude=True,
        description="folder of a decoder-only language model as transformers writes it; default: "
        "a small random Qwen3",
    )
    samples: int = Field(
        16_000, ge=1, description="images to train on in total, repetitions counted"
    )


class FinetuneRecipe(CarRecipe):
    """Stage two: all weights train, starting from the end of stage one."""

    run: Path = Field(
        Path("runs/car"), exclude=True, description="run folder; resumed when it holds a checkpoint"
    )
    start_from: Path = Field(
        Path("runs/car-align/car"), exclude=True, description="`car` folder of a run of stage one"
    )
    samples: int = Field(
        100_000, ge=1, description="images to train on in total, repetitions counted"
    )
