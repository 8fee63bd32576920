"""`python -m export.gpu_acceptance --bare`: numbers and speed of a GPU host in minutes.

Needs PyTorch, ONNX Runtime, numpy and what deploy.gpu.pack carries; no Triton, no network.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from export.bare import gateway, graphs, headlines, numerics, rates, speed
from export.bare.scale import GPU, REHEARSAL, ROLES, Role
from export.bare.sections import Sections
from export.gpu_report import Report, machine
from export.random_model import random_of
from tokenizer import checkpoint
from tokenizer.data import evaluation_photos
from tokenizer.family import Tokenizer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tokenizer/weights/demo.safetensors"
CUDA_PROVIDER = "CUDAExecutionProvider"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export.gpu_acceptance --bare", description=main.__doc__
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
    photos = {
        name: torch.from_numpy(
            evaluation_photos(options.data, model.shape.picture_size, scale.photos)
        )
        for name, model in models.items()
    }
    matrix_rates: dict[torch.dtype, float] = {}
    speeds = speed.Speeds()

    def measure_rates() -> None:
        matrix_rates.update(rates.measure(sections, device, scale))

    def measure_numerics() -> None:
        for name, model in models.items():
            numerics.compare(sections, name, model, photos[name], device, scale)

    def measure_speed(
        variants: tuple[speed.Variant, ...],
        batches: tuple[int, ...],
        names: Sequence[str] = tuple(models),
        roles: tuple[Role, ...] = ROLES,
    ) -> None:
        chosen = {name: models[name] for name in names}
        speed.measure(
            sections, chosen, roles, variants, batches, device, scale, matrix_rates, speeds
        )

    def measure_graphs() -> None:
        here = onnxruntime.get_available_providers()
        provider = "CPUExecutionProvider" if options.rehearse else CUDA_PROVIDER
        if provider not in here:
            report.say("Not run: this onnxruntime has no CUDA.")
        else:
            graphs.measure(sections, options.repository, trained, photos["demo"], provider, scale)

    sections.section("What the device does at best", measure_rates)
    sections.section("Numbers", measure_numerics)
    sections.section("Speed", lambda: measure_speed(speed.MAIN, scale.batches))
    sections.section(
        "ChannelTok beside FlexTok",
        lambda: headlines.decoders(sections, models["full"], device, scale),
    )
    sections.section("Generation", lambda: headlines.generation(sections, device, scale))
    sections.section(
        "Speed, other precisions and layouts",
        lambda: measure_speed(speed.OTHERS, scale.some_batches),
    )
    sections.section(
        "Speed, compiled",
        lambda: measure_speed(
            speed.COMPILED, scale.compiled_batches, scale.compiled, scale.compiled_roles
        ),
    )
    sections.section("What it means for serving", lambda: gateway.say(report, list(models), speeds))
    sections.section("The exported graphs", measure_graphs)
    sections.close()
    if sections.failed or (options.rehearse and sections.left_out):
        raise SystemExit(1)
