"""`make bench-families`: ChannelTok, CVQ and FlexTok on the same photos, byte budgets and engine.

Four parts, alone or together; build/bench-families.json keeps the figures of earlier runs.

quality: the trained tokenizers at equal bytes: PSNR, SSIM, a perceptual distance that losses may
    use, and the independent judge.
cost: encode and decode of one image by the demo sizes' graphs in ONNX Runtime, and FlexTok's decode
    by k.
size: the full ChannelTok decoder against FlexTok's d12-d12, random weights, in each engine.
generate: an image's tokens by the demo's generator, with and without its cache.
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
NAMES = ("demo", "cvq", "flextok")  # of weight files and of tokenizer.models.registry.SIZES
BYTES = (16, 32, 64, 128, 256, 512)
PARTS = ("quality", "cost", "size", "generate")
ENGINES = (REFERENCE, "openvino f32", "openvino bf16")
# By suffix of a figure's name. Any value but 1 takes a second pass of the network per step.
GUIDANCE = {"": 1.0, "_guided": 2.0}
Figures = dict[str, float]


def trained(name: str) -> Tokenizer | None:
    """The shipped tokenizer of this name; None without shipped weights."""
    path = WEIGHTS / f"{name}.safetensors"
    return checkpoint.load(path) if path.exists() else None


def quality(data: str, count: int | None) -> Figures:
    """Similarity of decoded images to photos by family and bytes, and each family's use of ids."""
    models = {name: model for name in NAMES if (model := trained(name)) is not None}
    perceptual = Perceptual("alex").eval()
    figures: Figures = {}
    for name, model in models.items():
        photos = evaluation_photos(data, model.shape.image_size, count)
        tokens = inference.encode(model, photos)
        ids = np.unique(tokens.numpy(), return_counts=True)[1] / tokens.numel()
        figures |= {
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
        distances, _ = efficientnet_distance.measure(photos, decoded)
        for (size, k), images, distance in zip(budgets.items(), decoded, distances, strict=True):
            measures = {
                "k": k,
                "psnr": psnr(photos, images).mean(),
                "ssim": ssim(photos, images).mean(),
                "perceptual": _perceptual(perceptual, photos, images),
                "independent": distance.mean(),
            }
            figures |= {
                f"{name}_{size}_bytes_{measure}": float(value)
                for measure, value in measures.items()
            }
    return figures


@torch.inference_mode()
def _perceptual(network: Perceptual, photos: NDArray[np.uint8], images: NDArray[np.uint8]) -> float:
    batches = zip(
        *(torch.from_numpy(array).split(inference.BATCH) for array in (images, photos)), strict=True
    )
    return float(torch.cat([network(to_unit(a), to_unit(b)) for a, b in batches]).mean())


def cost(data: str, rounds: int) -> Figures:
    """Milliseconds per image and peak memory by family and role, and FlexTok's decode by k."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = dict(_demo_tasks(data, Path(folder)))
        engines = {key: EngineProcess(REFERENCE, task) for key, task in tasks.items()}
        times = _measure_alternating(engines, rounds)
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
    """Seconds to decode a 256-pixel image from 256 tokens, by engine, and ChannelTok's speedup.

    A FlexTok decode is D12.steps Euler steps: the time of a graph of one step, and for each further
    step the difference to a graph of two. The first step is cheaper because its noise is known: the
    pass without tokens is a constant that engines fold when they load the graph. The VAE decoder is
    left out.
    """
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks = dict(_full_size_tasks(Path(folder)))
        for engine in engines:
            processes = {key: EngineProcess(engine, task) for key, task in tasks.items()}
            seconds = _measure_alternating(processes, rounds)
            for suffix in GUIDANCE:
                first, both = (seconds.pop(f"flextok{suffix}_{steps}") for steps in (1, 2))
                seconds[f"flextok{suffix}"] = first + (D12.steps - 1) * (both - first)
            figures |= {f"{key}_{_key(engine)}_seconds": value for key, value in seconds.items()}
            figures |= {
                f"{key}_{_key(engine)}_peak_bytes": process.peak_bytes
                for key, process in processes.items()
            }
    for scope, candidates in {"same_engine": (REFERENCE,), "best_engine": engines}.items():
        best = {
            key: min(figures[f"{key}_{_key(engine)}_seconds"] for engine in candidates)
            for key in ("channeltok", *(f"flextok{suffix}" for suffix in GUIDANCE))
        }
        for suffix in GUIDANCE:
            figures[f"channeltok_over_flextok_{scope}{suffix}"] = (
                best[f"flextok{suffix}"] / best["channeltok"]
            )
    return figures


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
    """Figures of export.bench.generator for the demo's generator; empty if none is shipped."""
    if not GENERATOR.exists():
        return {}
    step_graph = generator_graph.step_graph(
        generator_checkpoint.load(GENERATOR), "demo"
    ).SerializeToString()
    return {
        key.removeprefix("generate_"): value
        for key, value in generator.measure(step_graph, rounds).items()
    }


def _task(folder: Path, role: Role, model: bytes, inputs: NDArray[Any]) -> Task:
    folder.mkdir()
    (folder / GRAPH).write_bytes(model)
    return Task(role, folder, inputs, flops=0.0)


def _measure_alternating(engines: dict[str, EngineProcess], rounds: int) -> Figures:
    """Median seconds per image; the processes run in turns and are stopped at the end."""
    times: dict[str, list[float]] = {key: [] for key in engines}
    for _ in range(rounds):
        for key, engine in engines.items():
            times[key].append(engine.seconds(1))
    for engine in engines.values():
        engine.stop()
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def _key(engine: str) -> str:
    return engine.replace(" ", "_")


def main() -> None:
    """Measure the chosen parts into build/bench-families.json; --write renders docs/families.md."""
    parser = argparse.ArgumentParser(
        prog="python -m export.bench.families", description=main.__doc__
    )
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="none: only write the page"
    )
    parser.add_argument("--rounds", type=int, default=9, help="of cost and generate; 9")
    parser.add_argument("--size-rounds", type=int, default=3, help="of size, seconds each; 3")
    parser.add_argument("--size-engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument(
        "--data",
        help="photos for quality and cost: a folder of images or .tar shards, one .tar, or a glob",
    )
    parser.add_argument("--photos", type=int, help="how many of them; all")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    options = parser.parse_args()
    if REFERENCE not in options.size_engines:
        parser.error(f"size also compares in one engine: --size-engines needs {REFERENCE!r}")
    if options.data is None and {"quality", "cost"} & {*options.parts}:
        parser.error("quality and cost need --data")
    figures: Figures = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    parts: dict[str, Callable[[], Figures]] = {
        "quality": lambda: quality(options.data, options.photos),
        "cost": lambda: cost(options.data, options.rounds),
        "size": lambda: size(options.size_rounds, tuple(options.size_engines)),
        "generate": lambda: generate(options.rounds),
    }
    for part in options.parts:
        # Replace the figures of an earlier run.
        figures = {key: value for key, value in figures.items() if not key.startswith(f"{part}_")}
        figures |= {
            key if key.startswith("channeltok_over") else f"{part}_{key}": value
            for key, value in parts[part]().items()
        }
        write_figures(REPORT, figures)
    print(families_page.tables(figures))
    if options.write:
        families_page.write(figures)


if __name__ == "__main__":
    main()
