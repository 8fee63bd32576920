"""`make bench-families`: ChannelTok, CVQ and FlexTok side by side, on the same photos, in as many bytes, in the same engine.

Four legs, each by itself or all in one run; build/bench-families.json keeps what an earlier run measured.

quality: the trained tokenizers at the same bytes, by PSNR, SSIM, a perceptual distance that losses may use, and the independent judge.
cost: encode and decode of an image by the graphs of the demo sizes in ONNX Runtime, and how FlexTok's decode grows with k.
size: the full ChannelTok decoder against the decoder of FlexTok's d12-d12, both with random weights, in each engine.
generate: the tokens of an image by the demo's generator, with its cache and without, in ONNX Runtime.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.bench import families_page, generator
from export.bench.engines import GRAPH, REFERENCE, EngineProcess, Role, Task
from export.commands.tokenizer import FAMILY_BUDGETS
from export.figures import write_figures
from export.graphs import generator_graph, graph
from export.graphs.random_model import random_model, random_of
from generator import checkpoint as generator_checkpoint
from tokenizer import checkpoint, inference
from tokenizer.evaluation import efficientnet_distance
from tokenizer.evaluation.fidelity import psnr, ssim
from tokenizer.inference import to_unit
from tokenizer.models.base import Tokenizer
from tokenizer.models.flextok import D12
from tokenizer.training.data import evaluation_photos
from tokenizer.training.perceptual import Perceptual

REPORT = Path("build/bench-families.json")
WEIGHTS = Path(__file__).parents[2] / "tokenizer/weights"
GENERATOR = Path(__file__).parents[2] / "generator/weights/demo.safetensors"
NAMES = ("demo", "cvq", "flextok")  # of weights, and of tokenizer.models.registry.SIZES
BYTES = (16, 32, 64, 128, 256, 512)
LEGS = ("quality", "cost", "size", "generate")
ENGINES = (REFERENCE, "openvino f32", "openvino bf16")
GUIDANCE = {
    "": 1.0,
    "_guided": 2.0,
}  # by suffix of a figure's name; any but 1 asks for a second pass of the network at each step
Figures = dict[str, float]


def trained(name: str) -> Tokenizer | None:
    """The tokenizer whose weights are in this project; None where there are none."""
    path = WEIGHTS / f"{name}.safetensors"
    return checkpoint.load(path) if path.exists() else None


def quality(data: str, count: int | None) -> Figures:
    """By family and bytes: k, and how like the photos the images are; by family: how much of the ids is used."""
    models = {name: model for name in NAMES if (model := trained(name)) is not None}
    perceptual = Perceptual("alex").eval()
    found: Figures = {}
    for name, model in models.items():
        photos = evaluation_photos(data, model.shape.image_size, count)
        tokens = inference.encode(model, photos)
        ids = np.unique(tokens.numpy(), return_counts=True)[1] / tokens.numel()
        found |= {
            f"{name}_photos": len(photos),
            f"{name}_use": model.usage(tokens),
            f"{name}_ids_seen": len(ids) / model.vocab_size,
            f"{name}_id_entropy_bits": float(-(ids * np.log2(ids)).sum()),
        }
        budgets = {
            size: k
            for size in BYTES
            if (k := 8 * size // model.bits_per_token) <= model.shape.channels
        }
        decoded = [inference.decode(model, tokens, k) for k in budgets.values()]
        distances, _ = efficientnet_distance.judge(photos, decoded)
        for (size, k), images, distance in zip(budgets.items(), decoded, distances, strict=True):
            measures = {
                "k": k,
                "psnr": psnr(photos, images).mean(),
                "ssim": ssim(photos, images).mean(),
                "perceptual": _perceptual(perceptual, photos, images),
                "independent": distance.mean(),
            }
            found |= {
                f"{name}_{size}_bytes_{measure}": float(value)
                for measure, value in measures.items()
            }
    return found


@torch.inference_mode()
def _perceptual(network: Perceptual, photos: NDArray[np.uint8], images: NDArray[np.uint8]) -> float:
    pairs = zip(
        *(torch.from_numpy(some).split(inference.BATCH) for some in (images, photos)), strict=True
    )
    return float(torch.cat([network(to_unit(one), to_unit(other)) for one, other in pairs]).mean())


def cost(data: str, rounds: int) -> Figures:
    """Milliseconds of an image and bytes of memory, by family and role; FlexTok's decode by k. All graphs take turns."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = dict(_demo_tasks(data, Path(folder)))
        engines = {key: EngineProcess(REFERENCE, task) for key, task in tasks.items()}
        times = _in_turns(engines, rounds)
    return {f"{key}_ms": 1000 * seconds for key, seconds in times.items()} | {
        f"{key}_peak_bytes": engine.peak_bytes for key, engine in engines.items()
    }


def _demo_tasks(data: str, folder: Path) -> Iterator[tuple[str, Task]]:
    for name in NAMES:
        model = trained(name) or random_model(name)
        photos = evaluation_photos(data, model.shape.image_size, 4)
        tokens, channels = inference.encode(model, photos).numpy(), model.shape.channels
        yield (
            f"{name}_encode",
            _task(
                folder / name, "encode", graph.encode_graph(model, name).SerializeToString(), photos
            ),
        )
        for k in sorted({*FAMILY_BUDGETS.get(model.family, ()), channels}):
            key = f"{name}_decode" if k == channels else f"{name}_decode_k{k}"
            decode = graph.decode_graph(model, name, k).SerializeToString()
            yield (
                key,
                _task(
                    folder / f"{name}_{k}", "decode", decode, np.ascontiguousarray(tokens[:, :k])
                ),
            )


def size(rounds: int, engines: tuple[str, ...]) -> Figures:
    """Seconds of an image of 256 pixels from 256 tokens, by engine, and how many times faster ChannelTok is.

    A FlexTok decode is D12.steps Euler steps: what a graph of one takes, and for each further one what a graph of two takes longer. A
    first step is cheaper: of a known noise, the pass without tokens is a constant that an engine computes when it loads. Its VAE decoder
    is left out.
    """
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks = dict(_full_size_tasks(Path(folder)))
        for engine in engines:
            processes = {key: EngineProcess(engine, task) for key, task in tasks.items()}
            seconds = _in_turns(processes, rounds)
            for suffix in GUIDANCE:
                one, two = (seconds.pop(f"flextok{suffix}_{steps}") for steps in (1, 2))
                seconds[f"flextok{suffix}"] = one + (D12.steps - 1) * (two - one)
            found |= {f"{key}_{_key(engine)}_seconds": value for key, value in seconds.items()}
            found |= {
                f"{key}_{_key(engine)}_peak_bytes": process.peak_bytes
                for key, process in processes.items()
            }
    for which, among in {"same_engine": (REFERENCE,), "best_engine": engines}.items():
        best = {
            key: min(found[f"{key}_{_key(engine)}_seconds"] for engine in among)
            for key in ("channeltok", *(f"flextok{suffix}" for suffix in GUIDANCE))
        }
        for suffix in GUIDANCE:
            found[f"channeltok_over_flextok_{which}{suffix}"] = (
                best[f"flextok{suffix}"] / best["channeltok"]
            )
    return found


def _full_size_tasks(folder: Path) -> Iterator[tuple[str, Task]]:
    tokens = np.random.default_rng(0).integers(0, 64_000, (1, D12.channels), np.int32)
    model = random_model("full")
    absent = np.full((1, model.shape.channels - D12.channels), -1, np.int32)
    decode = graph.decode_graph(model, "full", model.shape.channels).SerializeToString()
    yield (
        "channeltok",
        _task(folder / "channeltok", "decode", decode, np.concatenate([tokens, absent], axis=1)),
    )
    for suffix, guidance in GUIDANCE.items():
        for steps in (1, 2):
            key, shape = (
                f"flextok{suffix}_{steps}",
                D12.model_copy(update={"steps": steps, "guidance": guidance}),
            )
            yield (
                key,
                _task(
                    folder / key,
                    "decode",
                    graph.decode_graph(random_of(shape), key, D12.channels).SerializeToString(),
                    tokens,
                ),
            )


def generate(rounds: int) -> Figures:
    """As export.bench.generator, of the demo's trained generator; nothing where there is none."""
    if not GENERATOR.exists():
        return {}
    graph_of_it = generator_graph.step_graph(
        generator_checkpoint.load(GENERATOR), "demo"
    ).SerializeToString()
    return {
        key.removeprefix("generate_"): value
        for key, value in generator.measure(graph_of_it, rounds).items()
    }


def _task(folder: Path, role: Role, model: bytes, given: NDArray[Any]) -> Task:
    folder.mkdir()
    (folder / GRAPH).write_bytes(model)
    return Task(role, folder, given, flops=0.0)


def _in_turns(engines: dict[str, EngineProcess], rounds: int) -> Figures:
    """Median seconds of one image. The processes end."""
    times: dict[str, list[float]] = {key: [] for key in engines}
    for _ in range(rounds):
        for key, engine in engines.items():
            times[key].append(engine.seconds(1))
    for engine in engines.values():
        engine.stop()
    return {key: statistics.median(some) for key, some in times.items()}


def _key(engine: str) -> str:
    return engine.replace(" ", "_")


def main() -> None:
    """Measure the legs asked for, and write build/bench-families.json; with --write docs/families.md from all that it then holds."""
    parser = argparse.ArgumentParser(
        prog="python -m export.bench.families", description=main.__doc__
    )
    parser.add_argument(
        "--legs", nargs="*", choices=LEGS, default=LEGS, help="none: only write the page"
    )
    parser.add_argument("--rounds", type=int, default=9, help="of cost and of generate; 9")
    parser.add_argument("--size-rounds", type=int, default=3, help="of size, some seconds each; 3")
    parser.add_argument("--size-engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument(
        "--data",
        help="photos for quality and cost: a folder of images or of .tar shards, one .tar, or a glob",
    )
    parser.add_argument("--photos", type=int, help="how many of them (all)")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    options = parser.parse_args()
    if REFERENCE not in options.size_engines:
        parser.error(f"size compares in one engine: --size-engines needs {REFERENCE!r}")
    if options.data is None and {"quality", "cost"} & {*options.legs}:
        parser.error("the legs quality and cost need --data")
    found: Figures = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    legs: dict[str, Callable[[], Figures]] = {
        "quality": lambda: quality(options.data, options.photos),
        "cost": lambda: cost(options.data, options.rounds),
        "size": lambda: size(options.size_rounds, tuple(options.size_engines)),
        "generate": lambda: generate(options.rounds),
    }
    for leg in options.legs:
        # A leg replaces all that an earlier run found of it.
        found = {key: value for key, value in found.items() if not key.startswith(f"{leg}_")}
        found |= {
            key if key.startswith("channeltok_over") else f"{leg}_{key}": value
            for key, value in legs[leg]().items()
        }
        write_figures(REPORT, found)
    print(families_page.tables(found))
    if options.write:
        families_page.write(found)


if __name__ == "__main__":
    main()
