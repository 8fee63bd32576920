"""Training recipes: every setting of a run, from the command line, the environment or a TOML file.

`python -m tokenizer.train --help` prints them; docs/training-log.md says which values were tried.
"""

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tokenizer.training.distributed import DeviceChoice
from tokenizer.training.perceptual import Trunk


class BaseRecipe(BaseSettings):
    """Settings of any training run here: data, length, learning rate, optimiser, evaluation.

    A checkpoint records all settings but those with `exclude=True`: paths, and what changes the
    speed of a run but not its result.
    """

    model_config = SettingsConfigDict(cli_kebab_case=True, frozen=True, extra="forbid")
    run: Annotated[
        Path,
        Field(description="run folder; resumed when it holds a checkpoint", exclude=True),
    ]
    train: Annotated[
        str,
        Field(
            description="training photos: a folder of .tar shards, one .tar, or a glob of them",
            exclude=True,
        ),
    ]
    validation: Annotated[
        str, Field(description="validation photos, in the same form", exclude=True)
    ]
    samples: Annotated[
        int, Field(ge=1, description="images to train on in total, repetitions counted")
    ] = 500_000
    batch: Annotated[int, Field(ge=1, description="images per step, over all processes")] = 64

    rate: Annotated[
        float, Field(gt=0, description="peak learning rate, for Muon and AdamW alike")
    ] = 3e-3
    warmup_steps: Annotated[
        int, Field(ge=0, description="steps over which the rate rises from 0")
    ] = 100
    decay_share: Annotated[
        float,
        Field(
            ge=0, le=1, description="share of the samples, at the end, over which the rate falls"
        ),
    ] = 0.25
    final_rate: Annotated[
        float, Field(gt=0, le=1, description="final learning rate, as a share of the peak")
    ] = 0.05
    optimiser: Annotated[
        Literal["muon", "adamw"],
        Field(description="optimiser of the inner matrices; AdamW trains everything else"),
    ] = "muon"
    weight_decay: Annotated[
        float, Field(ge=0, description="decoupled weight decay; none for biases and norms")
    ] = 0.1
    clip: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 1.0
    ema: Annotated[
        float,
        Field(ge=0, lt=1, description="decay of the averaged weights, which are shipped"),
    ] = 0.997

    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(
            description="auto: bf16 where the hardware has it (GPU, AMX, avx512_bf16); elsewhere "
            "bf16 is 25 times slower than fp32"
        ),
    ] = "auto"
    seed: Annotated[int, Field(description="seed of weights, crops and order")] = 0
    evaluate_every: Annotated[
        int,
        Field(ge=1, description="samples between evaluations on validation photos", exclude=True),
    ] = 8_000
    checkpoint_minutes: Annotated[
        float, Field(gt=0, description="minutes between checkpoints", exclude=True)
    ] = 3.0
    compile: Annotated[
        bool,
        Field(
            description="compile the step with torch.compile: the first takes a minute or more; "
            "needs a C++ compiler",
            exclude=True,
        ),
    ] = False

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
    run: Annotated[
        Path,
        Field(description="run folder; resumed when it holds a checkpoint", exclude=True),
    ] = Path("runs/demo")
    size: Annotated[
        str, Field(description="model to train, by its name in tokenizer.models.registry")
    ] = "demo"
    start_from: Annotated[
        Path | None,
        Field(
            description="weights to start from when the run folder has no checkpoint; their "
            "samples count as seen",
            exclude=True,
        ),
    ] = None
    minutes: Annotated[
        float | None,
        Field(
            gt=0,
            description="time limit of each command, loading included; the run ends at it or at "
            "`samples`, whichever comes first",
        ),
    ] = None
    device: Annotated[
        DeviceChoice,
        Field(description="device to train on; auto: a GPU where there is one", exclude=True),
    ] = "auto"
    deliver: Annotated[
        Path | None,
        Field(
            description="folder that each checkpoint copies log, curve and the weights to, in "
            "parts of 15 MiB, see tokenizer.parts",
            exclude=True,
        ),
    ] = None
    workers: Annotated[
        int,
        Field(ge=0, description="decoding processes per training process", exclude=True),
    ] = 0

    photos_in_memory: Annotated[
        bool,
        Field(
            description="decode all photos once and keep them on the training device, 0.14 MB "
            "each; needs no workers",
            exclude=True,
        ),
    ] = False
    crop_area: Annotated[
        float, Field(gt=0, le=1, description="smallest share of a photo's area that a crop covers")
    ] = 0.4
    colour: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="largest random change of contrast and saturation, as a share; needs "
            "photos_in_memory",
        ),
    ] = 0.0

    full_length_probability: Annotated[
        float,
        Field(ge=0, le=1, description="tail-drop: probability that an image keeps all tokens"),
    ] = 0.5
    l1_weight: Annotated[
        float, Field(ge=0, description="weight of the mean absolute error, pixels in [-1, 1]")
    ] = 1.0
    ssim_weight: Annotated[
        float, Field(ge=0, description="weight of 1 - SSIM, over windows of 7 x 7 pixels")
    ] = 0.0
    entropy_weight: Annotated[
        float, Field(ge=0, description="weight of per-sample minus batch entropy (nats)")
    ] = 0.0
    commitment_weight: Annotated[
        float, Field(ge=0, description="weight of the squared distance from latents to codes")
    ] = 0.0
    perceptual_weight: Annotated[
        float, Field(ge=0, description="weight of the perceptual distance after its ramp")
    ] = 0.0
    perceptual_trunk: Annotated[
        Trunk,
        Field(description="network of the perceptual distance: alex costs a tenth of vgg"),
    ] = "alex"
    perceptual_from: Annotated[
        int,
        Field(
            ge=0,
            description="samples before the perceptual loss starts; until then pixels alone teach "
            "how to spend bits",
        ),
    ] = 0
    perceptual_rise: Annotated[
        int, Field(ge=0, description="samples over which its weight rises from 0")
    ] = 0
    gan_weight: Annotated[
        float, Field(ge=0, description="weight of the hinge GAN loss, after gan_from")
    ] = 0.0
    gan_from: Annotated[
        int, Field(ge=0, description="samples before the discriminator and its loss start")
    ] = 0
    gan_rate: Annotated[
        float, Field(gt=0, description="the discriminator's constant learning rate")
    ] = 1e-4

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
