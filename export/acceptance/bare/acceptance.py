"""`python -m export.acceptance --bare`: numerics and speed of a GPU host in minutes.

Needs PyTorch, ONNX Runtime, numpy and what deploy.gpu.pack packs; no Triton, no network.
"""

import argparse
import platform
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export.acceptance.bare import gateway_cores, graphs, headlines, numerics, rates, speed
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
        help="run every part on the CPU with tiny sizes; the figures mean nothing",
    )
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="the tokenizer to compare")
    parser.add_argument(
        "--data",
        default=str(ROOT / "docs/images/*.jpg"),
        help="photos: a folder of images or of .tar shards, or a glob",
    )
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--minutes", type=float, default=4.0, help="time limit for everything; 4")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-acceptance"))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure numerics and speed on the GPU, and write report.md and report.json.

    Exits with 1 when a part failed, and in a rehearsal also when one was skipped for lack of time.
    The report lists both.
    """
    options = _options(arguments)
    scale = REHEARSAL if options.rehearse else GPU
    device = torch.device("cpu" if options.rehearse else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU: --rehearse runs everything on the CPU")
    report = Report()
    sections = Sections(report, options.output, 60 * options.minutes, scale.time_factor)
    report.add(
        "# GPU acceptance without Triton" + (": A REHEARSAL" if options.rehearse else ""), ""
    )
    if options.rehearse:
        report.add("On the CPU, with tiny sizes: **no figure below means anything.**", "")
    report.add(f"{machine()} Python {platform.python_version()}, numpy {np.__version__}.")

    trained = checkpoint.load(options.checkpoint)
    models: dict[str, Tokenizer] = {
        "demo": trained if scale.small is None else random_of(scale.small),
        "full": random_of(scale.full),
    }
    report.add(f"demo: {checkpoint.fingerprint(models['demo'])}. full: random weights.")
    counts = {"demo": scale.photos, "full": scale.large_photos}
    photos = {
        name: torch.from_numpy(
            evaluation_photos(options.data, model.shape.image_size, counts[name])
        )
        for name, model in models.items()
    }
    acceptance = Acceptance(sections, models, photos, device, scale)
    acceptance.measure_eager()
    sections.section(
        "The exported graphs",
        lambda: _graphs(sections, options, trained, photos["demo"], scale),
    )
    acceptance.measure_compiled()
    sections.close()
    if sections.failed or (options.rehearse and sections.skipped):
        raise SystemExit(1)


@dataclass
class Acceptance:
    """Two models on a device, and their measured speed so far.

    photos: uint8 [N, S, S, 3] by model. rates: of matrix products, see bare.rates.
    """

    sections: Sections
    models: dict[str, Tokenizer]
    photos: dict[str, Tensor]
    device: torch.device
    scale: Scale
    rates: dict[torch.dtype, float] = field(default_factory=dict)
    speeds: speed.Speeds = field(default_factory=speed.Speeds)

    def measure_eager(self) -> None:
        """The sections that come first, because no compiler can delay them."""
        section, device, scale = self.sections.section, self.device, self.scale
        section("Peak rates of the device", self._rates)
        section("Numerics", self._numerics)
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

    def measure_compiled(self) -> None:
        """The sections that come last: the compiler uses the remaining time."""
        scale = self.scale
        self.sections.section(
            "Speed, compiled",
            lambda: self._speed(
                speed.COMPILED, scale.compiled_batches, scale.compiled, scale.compiled_roles
            ),
        )
        self.sections.section(
            "Gateway cores per device",
            lambda: gateway_cores.add(self.sections.report, list(self.models), self.speeds),
            instant=True,
        )

    def _rates(self) -> None:
        self.rates.update(rates.measure(self.sections, self.device, self.scale))

    def _numerics(self) -> None:
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
        sections.skipped.append("the exported graphs: this onnxruntime has no CUDA")
