"""Everything that decides a training run. `python -m tokenizer.train --help` prints it; docs/training-log.md says what was tried."""

import math
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tokenizer.models.registry import SIZES
from tokenizer.training.distributed import DeviceChoice
from tokenizer.training.perceptual import Trunk


class Schedule(BaseSettings):
    """What decides any training run here: the photos, how many, at which rate, and how often it is looked at."""

    model_config = SettingsConfigDict(cli_kebab_case=True, frozen=True, extra="forbid")
    train: Annotated[
        str, Field(description="training shards: a folder of .tar, one .tar, or a glob")
    ] = "../shared/data/train"
    validation: Annotated[str, Field(description="validation shards, by the same rule")] = (
        "../shared/data/val"
    )
    views: Annotated[int, Field(ge=1, description="photos to see in all")] = 500_000
    batch: Annotated[int, Field(ge=1, description="photos per step, over all processes")] = 64

    rate: Annotated[
        float, Field(gt=0, description="peak learning rate, of Muon and of AdamW alike")
    ] = 3e-3
    warmup_steps: Annotated[
        int, Field(ge=0, description="steps over which the rate rises from 0")
    ] = 100
    decay_share: Annotated[
        float,
        Field(
            ge=0, le=1, description="share of the views, the last ones, over which the rate falls"
        ),
    ] = 0.25
    final_rate: Annotated[
        float, Field(gt=0, le=1, description="share of the peak rate at the end")
    ] = 0.05
    optimiser: Annotated[
        Literal["muon", "adamw"],
        Field(description="of the inner matrices; everything else is AdamW's"),
    ] = "muon"
    weight_decay: Annotated[
        float, Field(ge=0, description="decoupled decay; biases and norms have none")
    ] = 0.1
    clip: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 1.0
    ema: Annotated[
        float,
        Field(ge=0, lt=1, description="decay of the averaged weights, which are the ones shipped"),
    ] = 0.997

    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(
            description="auto: bf16 where the hardware has it (GPU, AMX, avx512_bf16); elsewhere it is 25 times slower than fp32"
        ),
    ] = "auto"
    seed: Annotated[
        int, Field(description="of all that is drawn at random: weights, crops, order")
    ] = 0
    evaluate_every: Annotated[
        int, Field(ge=1, description="views between evaluations on validation photos")
    ] = 8_000
    checkpoint_minutes: Annotated[float, Field(gt=0, description="time between checkpoints")] = 3.0

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

    def rate_at(self, views: int, warm_from: int, time_share: float = 0.0) -> float:
        """The learning rate after `views` photos: up over the warm-up, flat, down a half cosine over the last `decay_share`.

        Flat as long as it may be, so that a run can be lengthened. warm_from: views at which the optimiser was new.
        time_share: how much of a run's time is over, 0 to 1. What is nearer to its end decides, views or time.
        """
        up = min(1.0, ((views - warm_from) / self.batch + 1) / max(1, self.warmup_steps))
        done = max(views / self.views, time_share)
        left = min(1.0, max(0.0, (1 - done) / self.decay_share)) if self.decay_share else 1.0
        return (
            self.rate
            * up
            * (self.final_rate + (1 - self.final_rate) * (1 - math.cos(math.pi * left)) / 2)
        )


class Recipe(Schedule):
    """Train a tokenizer of any family. The run folder holds the checkpoint, a log and a learning curve; repeating the command resumes it.

    A setting is taken from the command line, else from CHANNELTOK_TRAIN_<NAME>, else from the TOML file that CHANNELTOK_TRAIN_RECIPE names.
    """

    model_config = SettingsConfigDict(env_prefix="CHANNELTOK_TRAIN_")
    run: Annotated[
        Path, Field(description="folder of this run; resumed when it holds a checkpoint")
    ] = Path("runs/demo")
    size: Annotated[str, Field(description=f"which model: {', '.join(SIZES)}")] = "demo"
    start_from: Annotated[
        Path | None,
        Field(
            description="weights to go on from when the run folder has no checkpoint; their photos count as seen"
        ),
    ] = None
    minutes: Annotated[
        float | None,
        Field(
            gt=0,
            description="end after so many, loading included, or at `views`, whichever is first; each command counts anew",
        ),
    ] = None
    device: Annotated[
        DeviceChoice, Field(description="what trains; auto: a GPU where there is one")
    ] = "auto"
    compile: Annotated[
        bool,
        Field(
            description="fuse the step with torch.compile: the first takes a minute or more; needs a C++ compiler"
        ),
    ] = False
    deliver: Annotated[
        Path | None,
        Field(
            description="folder where each checkpoint leaves log, curve and the weights in parts of 15 MiB, see tokenizer.parts"
        ),
    ] = None
    workers: Annotated[
        int, Field(ge=0, description="processes that decode photos, for each process that trains")
    ] = 0

    photos_in_memory: Annotated[
        bool,
        Field(
            description="decode all photos once and keep them on the device that trains, 0.14 MB each; needs no workers"
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
            description="contrast and saturation of a photo change by up to this share; needs photos_in_memory",
        ),
    ] = 0.0

    keep_all: Annotated[
        float,
        Field(ge=0, le=1, description="tail-drop: the chance that a photo keeps all channels"),
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
        float, Field(ge=0, description="weight of the distance between latents and their codes")
    ] = 0.0
    perceptual_weight: Annotated[
        float, Field(ge=0, description="weight of the perceptual distance once it has risen")
    ] = 0.0
    perceptual_trunk: Annotated[
        Trunk, Field(description="whose features it takes: alex costs a tenth of vgg")
    ] = "alex"
    perceptual_from: Annotated[
        int,
        Field(
            ge=0, description="views from which it counts; before, pixels alone teach where bits go"
        ),
    ] = 0
    perceptual_rise: Annotated[
        int, Field(ge=0, description="views over which its weight rises from 0")
    ] = 0
    gan_weight: Annotated[
        float, Field(ge=0, description="weight of the hinge GAN, from gan_from on")
    ] = 0.0
    gan_from: Annotated[
        int, Field(ge=0, description="views from which the discriminator trains and counts")
    ] = 0
    gan_rate: Annotated[
        float, Field(gt=0, description="the discriminator's constant learning rate")
    ] = 1e-4

    def perceptual_weight_at(self, views: int) -> float:
        """Weight of the perceptual distance after `views` photos: 0, then rising, then `perceptual_weight`."""
        since = views - self.perceptual_from
        return self.perceptual_weight * (
            float(since >= 0)
            if self.perceptual_rise == 0
            else min(1.0, max(0.0, since / self.perceptual_rise))
        )
