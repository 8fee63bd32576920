"""Training recipes: every setting of a run, from the command line, the environment or a TOML file.

`python -m tokenizer.train --help` prints them; docs/training-log.md says which values were tried.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tokenizer.models.channeltok import NarrowDecoder
from tokenizer.training.distributed import DeviceChoice
from tokenizer.training.perceptual import Trunk


class BaseRecipe(BaseSettings):
    """Settings of any training run here: data, length, learning rate, optimiser, evaluation.

    A checkpoint records all settings but those with `exclude=True`: paths, and what changes the
    speed of a run but not its result.
    """

    model_config = SettingsConfigDict(cli_kebab_case=True, frozen=True, extra="forbid")
    run: Path = Field(description="run folder; resumed when it holds a checkpoint", exclude=True)
    train: str = Field(
        exclude=True,
        description="training photos: a folder of .tar shards, one .tar, or a glob of them",
    )
    validation: str = Field(description="validation photos, in the same form", exclude=True)
    samples: int = Field(
        500_000, ge=1, description="images to train on in total, repetitions counted"
    )
    batch: int = Field(64, ge=1, description="images per step, over all processes")

    rate: float = Field(3e-3, gt=0, description="peak learning rate, for Muon and AdamW alike")
    warmup_steps: int = Field(100, ge=0, description="steps over which the rate rises from 0")
    decay_share: float = Field(
        0.25, ge=0, le=1, description="share of the samples, at the end, over which the rate falls"
    )
    final_rate: float = Field(
        0.05, gt=0, le=1, description="final learning rate, as a share of the peak"
    )
    optimiser: Literal["muon", "adamw"] = Field(
        "muon", description="optimiser of the inner matrices; AdamW trains everything else"
    )
    weight_decay: float = Field(
        0.1, ge=0, description="decoupled weight decay; none for biases and norms"
    )
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(
        0.997, ge=0, lt=1, description="decay of the averaged weights, which are shipped"
    )

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 where the hardware has it (GPU, AMX, avx512_bf16); elsewhere bf16 "
        "is 25 times slower than fp32",
    )
    seed: int = Field(0, description="seed of weights, crops and order")
    evaluate_every: int = Field(
        8_000, ge=1, exclude=True, description="samples between evaluations on validation photos"
    )
    checkpoint_minutes: float = Field(
        3.0, gt=0, exclude=True, description="minutes between checkpoints"
    )
    compile: bool = Field(
        False,
        exclude=True,
        description="compile the step with torch.compile: the first takes a minute or more; needs "
        "a C++ compiler",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        variable = f"{settings_cls.model_config.get('env_prefix')}RECIPE"
        file = os.environ.get(variable)
        if file is None:
            return init_settings, env_settings
        if not Path(file).is_file():
            raise FileNotFoundError(f"{variable} names {file!r}, which is no file")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(file))

    def rate_at(self, samples_seen: int, warm_from: int, time_share: float = 0.0) -> float:
        """Learning rate after a number of samples: linear warm-up, flat, half-cosine decay.

        Flat for as long as possible, so that a run can be lengthened. warm_from: samples seen when
        the optimiser was new. time_share: share of the run's time limit that has passed, 0 to 1;
        the larger of it and the share of samples decides.
        """
        steps = (samples_seen - warm_from) / self.batch + 1
        up = min(1.0, steps / max(1, self.warmup_steps))
        done = max(samples_seen / self.samples, time_share)
        left = min(1.0, max(0.0, (1 - done) / self.decay_share)) if self.decay_share else 1.0
        cosine = (1 - math.cos(math.pi * left)) / 2
        return self.rate * up * (self.final_rate + (1 - self.final_rate) * cosine)


class TokenizerRecipe(BaseRecipe):
    """Train a tokenizer of any family. Repeating the command resumes the run.

    The run folder holds the checkpoint, a log and a learning curve. A setting is taken from the
    command line, else from CHANNELTOK_TRAIN_<NAME>, else from the TOML file that
    CHANNELTOK_TRAIN_RECIPE names.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_TRAIN_")
    run: Path = Field(
        Path("runs/demo"),
        exclude=True,
        description="run folder; resumed when it holds a checkpoint",
    )
    size: str = Field(
        "demo", description="model to train, by its name in tokenizer.models.registry"
    )
    start_from: Path | None = Field(
        None,
        exclude=True,
        description="weights to start from when the run folder has no checkpoint; their samples "
        "count as seen",
    )
    narrow_decoders: tuple[NarrowDecoder, ...] | None = Field(
        None,
        description="train these smaller decoders for small budgets alone, behind the frozen "
        'encoder of --start-from: [{"budget": 32, "widths": [32, 64, 128, 192]}]; [] drops those '
        "it has and trains the rest; by default the ones it has are trained",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="time limit of each command, loading included; the run ends at it or at "
        "`samples`, whichever comes first",
    )
    device: DeviceChoice = Field(
        "auto", exclude=True, description="device to train on; auto: a GPU where there is one"
    )
    deliver: Path | None = Field(
        None,
        exclude=True,
        description="folder that each checkpoint copies log, curve and the weights to, in parts "
        "of 15 MiB, see tokenizer.parts",
    )
    workers: int = Field(
        0, ge=0, exclude=True, description="decoding processes per training process"
    )

    photos_in_memory: bool = Field(
        False,
        exclude=True,
        description="decode all photos once and keep them on the training device, 0.14 MB each; "
        "needs no workers",
    )
    crop_area: float = Field(
        0.4, gt=0, le=1, description="smallest share of a photo's area that a crop covers"
    )
    colour: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest random change of contrast and saturation, as a share; needs "
        "photos_in_memory",
    )

    full_length_probability: float = Field(
        0.5, ge=0, le=1, description="tail-drop: probability that an image keeps all tokens"
    )
    l1_weight: float = Field(
        1.0, ge=0, description="weight of the mean absolute error, pixels in [-1, 1]"
    )
    ssim_weight: float = Field(
        0.0, ge=0, description="weight of 1 - SSIM, over windows of 7 x 7 pixels"
    )
    entropy_weight: float = Field(
        0.0, ge=0, description="weight of per-sample minus batch entropy (nats)"
    )
    commitment_weight: float = Field(
        0.0, ge=0, description="weight of the squared distance from latents to codes"
    )
    perceptual_weight: float = Field(
        0.0, ge=0, description="weight of the perceptual distance after its ramp"
    )
    perceptual_trunk: Trunk = Field(
        "alex", description="network of the perceptual distance: alex costs a tenth of vgg"
    )
    perceptual_from: int = Field(
        0,
        ge=0,
        description="samples before the perceptual loss starts; until then pixels alone teach how "
        "to spend bits",
    )
    perceptual_rise: int = Field(0, ge=0, description="samples over which its weight rises from 0")
    gan_weight: float = Field(0.0, ge=0, description="weight of the hinge GAN loss, after gan_from")
    gan_from: int = Field(
        0, ge=0, description="samples before the discriminator and its loss start"
    )
    gan_rate: float = Field(1e-4, gt=0, description="the discriminator's constant learning rate")

    def perceptual_weight_at(self, samples_seen: int) -> float:
        """Weight of the perceptual distance: 0, then a linear ramp, then constant."""
        since = samples_seen - self.perceptual_from
        if self.perceptual_rise == 0:
            return self.perceptual_weight * float(since >= 0)
        return self.perceptual_weight * min(1.0, max(0.0, since / self.perceptual_rise))


def run_command(command: type[BaseRecipe], arguments: list[str] | None = None) -> Any:
    """Run a recipe's `cli_cmd` with settings from the command line (`arguments`; None: sys.argv).

    Exits with one line for each wrong or missing setting, which says what is allowed.
    """
    try:
        return CliApp.run(command, cli_args=arguments)
    except ValidationError as error:
        sys.exit("\n".join(_explained(command, problem) for problem in error.errors()))
    except FileNotFoundError as error:
        sys.exit(str(error))


def _explained(command: type[BaseRecipe], problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    line = f"--{name.replace('_', '-')}: {problem['msg']}"
    field = command.model_fields.get(name)
    return line if field is None else f"{line} ({field.description})"
