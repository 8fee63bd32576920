"""`python -m export.acceptance --bare`: numbers and speed of a GPU host in minutes.

Needs PyTorch, ONNX Runtime, numpy and what deploy.gpu.pack carries; no Triton, no network.
"""

import argparse
import platform
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export.acceptance.bare import gateway, graphs, headlines, numerics, rates, speed
from export.acceptance.bare.scale import GPU, REHEARSAL, ROLES, Role, Scale
from export.acceptance.bare.sections import Sections
from export.acceptance.report import Report, machine
from export.graphs.random_model import random_of
from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.training.data import evaluation_photos

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "tokenizer/weights/demo.safetensors"
CUDA_PROVIDER = "CUDAExecutionProvider"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export.acceptance --bare", description=main.__doc__
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run every part on the CPU with tiny sizes; its figures mean nothing",
    )
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="the tokenizer to compare")
    parser.add_argument(
        "--data",
        default=str(ROOT / "docs/images/*.jpg"),
        help="photos: a folder of images or of .tar shards, or a glob",
    )
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--minutes", type=float, default=4.0, help="the time for everything; 4")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-acceptance"))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure numbers and speed on the GPU, and write report.md and report.json.

    Exits with 1 when a part failed, and in a rehearsal also when one was left out for lack of time.
    The report names both.
    """
    options = _options(arguments)
    scale = REHEARSAL if options.rehearse else GPU
    device = torch.device("cpu" if options.rehearse else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU: --rehearse runs everything on the CPU")
    report = Report()
    sections = Sections(report, options.output, 60 * options.minutes, scale.patience)
    report.say(
        "# GPU acceptance without Triton" + (": A REHEARSAL" if options.rehearse else ""), ""
    )
    if options.rehearse:
        report.say("On the CPU, with tiny sizes: **no figure below means anything.**", "")
    report.say(f"{machine()} Python {platform.python_version()}, numpy {np.__version__}.")

    trained = checkpoint.load(options.checkpoint)
    models: dict[str, Tokenizer] = {
        "demo": trained if scale.small is None else random_of(scale.small),
        "full": random_of(scale.full),
    }
    report.say(f"demo: {checkpoint.fingerprint(models['demo'])}. full: random weights.")
    counts = {"demo": scale.photos, "full": scale.large_photos}
    photos = {
        name: torch.from_numpy(
            evaluation_photos(options.data, model.shape.image_size, counts[name])
        )
        for name, model in models.items()
    }
    acceptance = Acceptance(sections, models, photos, device, scale)
    acceptance.all_but_graphs_and_compiled()
    sections.section(
        "The exported graphs",
        lambda: _graphs(sections, options, trained, photos["demo"], scale),
    )
    acceptance.compiled_and_what_it_means()
    sections.close()
    if sections.failed or (options.rehearse and sections.left_out):
        raise SystemExit(1)


@dataclass
class Acceptance:
    """Two models on a device, and what is known of their speed so far.

    photos: uint8 [N, S, S, 3] by model. rates: of matrix products, see export.acceptance.bare.rates.
    """

    sections: Sections
    models: dict[str, Tokenizer]
    photos: dict[str, Tensor]
    device: torch.device
    scale: Scale
    rates: dict[torch.dtype, float] = field(default_factory=dict)
    speeds: speed.Speeds = field(default_factory=speed.Speeds)

    def all_but_graphs_and_compiled(self) -> None:
        """The sections that come first: what no compiler can hold up."""
        section, device, scale = self.sections.section, self.device, self.scale
        section("What the device does at best", self._rates)
        section("Numbers", self._numbers)
        torch.backends.cudnn.benchmark = True  # from here on time counts, not bits
        section("Speed", lambda: self._speed(speed.MAIN, scale.batches))
        section(
            "ChannelTok beside FlexTok",
            lambda: headlines.decoders(self.sections, self.models["full"], device, scale),
        )
        section("Generation", lambda: headlines.generation(self.sections, device, scale))
        section(
            "Speed, other precisions and layouts",
            lambda: self._speed(speed.OTHERS, scale.some_batches),
        )

    def compiled_and_what_it_means(self) -> None:
        """The sections that come last: the compiler takes all the time that is left."""
        scale = self.scale
        self.sections.section(
            "Speed, compiled",
            lambda: self._speed(
                speed.COMPILED, scale.compiled_batches, scale.compiled, scale.compiled_roles
            ),
        )
        self.sections.section(
            "What it means for serving",
            lambda: gateway.say(self.sections.report, list(self.models), self.speeds),
            instant=True,
        )

    def _rates(self) -> None:
        self.rates.update(rates.measure(self.sections, self.device, self.scale))

    def _numbers(self) -> None:
        for name, model in self.models.items():
            numerics.compare(self.sections, name, model, self.photos[name], self.device, self.scale)

    def _speed(
        self,
        variants: tuple[speed.Variant, ...],
        batches: tuple[int, ...],
        names: tuple[str, ...] = ("demo", "full"),
        roles: tuple[Role, ...] = ROLES,
    ) -> None:
        speed.measure(
            self.sections,
            {name: self.models[name] for name in names},
            roles,
            variants,
            batches,
            self.device,
            self.scale,
            self.rates,
            self.speeds,
        )


def _graphs(
    sections: Sections,
    options: argparse.Namespace,
    model: Tokenizer,
    photos: Tensor,
    scale: Scale,
) -> None:
    provider = "CPUExecutionProvider" if options.rehearse else CUDA_PROVIDER
    if provider in onnxruntime.get_available_providers():
        graphs.measure(sections, options.repository, model, photos, provider, scale)
    else:
        sections.left_out.append("the exported graphs: this onnxruntime has no CUDA")
