"""`make bench-engines`: whatever can run a decoder or an encoder on this processor, side by side in one run.

Each engine runs in a process of its own, on all cores, so that its peak memory is its own; each process also measures the rate of a large
matrix product in the engine's arithmetic, which is the most the processor gives. Rounds go through all engines in turn. The demo size has
its trained weights, every other size random ones: speed does not depend on them, exactness does.
"""

import argparse
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export.commands.tokenizer import DEMO
from export.figures import write_figures
from export.graphs import graph, int8
from export.graphs.random_model import random_model
from export.triton import python_backend
from tokenizer import checkpoint, inference
from tokenizer.evaluation import fidelity
from tokenizer.models.base import Tokenizer
from tokenizer.models.bsq import BITS
from tokenizer.models.channeltok import SIZES
from tokenizer.training.data import evaluation_photos

Role = Literal["encode", "decode"]
Array = NDArray[Any]
Run = Callable[[Array], Array]
REFERENCE = "onnxruntime f32"
# PyTorch eager in its default memory order, which is what `model(x)` means, and in the order that is faster for convolutions.
TORCH = ("torch f32", "torch f32 channels-last", "torch bf16 channels-last")
ENGINES = {
    "encode": (*TORCH, REFERENCE, "openvino f32", "openvino bf16"),
    "decode": (*TORCH, REFERENCE, "openvino f32", "openvino bf16", "openvino int8"),
}
BATCHES = (1, 4)
GEMM_SIDE = 4096
MODULE, GRAPH = "module.pt", "model.onnx"
REPORT = Path("build/bench-engines.json")


@dataclass(frozen=True)
class Result:
    """One engine on one graph.

    rates: images/s by batch. gflops: of the fastest batch. gemm: GFLOP/s of a matrix product, same process; None where torch has none.
    error: against REFERENCE, PSNR of images in dB or the share of token bits that differ; None for the reference itself.
    """

    engine: str
    rates: dict[int, float]
    gflops: float
    gemm: float | None
    peak_bytes: int
    error: float | None


@dataclass(frozen=True)
class Task:
    """A folder with the graph, the module it came from and the int8 graph; what goes in; floating-point operations for one image."""

    role: Role
    folder: Path
    given: Array
    flops: float


def prepare(size: str, role: Role, data: str, folder: Path) -> Task:
    """Write what the engines load, so that a process holds no more than its engine does."""
    trained = size == "demo"
    model = checkpoint.load(DEMO) if trained else random_model(size)
    channels, side = model.shape.channels, model.shape.image_size
    compared, calibrated = (64, int8.CALIBRATION_PHOTOS) if trained else (max(BATCHES), 2)
    photos = evaluation_photos(data, side, compared + calibrated)
    if len(photos) <= compared:
        sys.exit(
            f"{data} has {len(photos)} photos: {compared} are needed to compare, and more to calibrate int8"
        )
    if role == "encode":
        given, made = photos[:compared], graph.encode_graph(model, size).SerializeToString()
    else:
        tokens, made = (
            inference.encode(model, photos).numpy(),
            graph.decode_graph(model, size, channels).SerializeToString(),
        )
        given = tokens[:compared]
        (folder / python_backend.INT8_GRAPH).write_bytes(int8.quantise(made, tokens[compared:]))
    (folder / GRAPH).write_bytes(made)
    module = _module(model, role)
    torch.save(module, folder / MODULE)
    with (
        torch.inference_mode(),
        FlopCounterMode(display=False) as counter,
    ):  # two for each multiply-add of convolutions and attention
        module(torch.from_numpy(given[:1]))
    return Task(role, folder, given, counter.get_total_flops())


def _module(model: Tokenizer, role: Role) -> nn.Module:
    if role == "decode":
        del model.encoder
        return graph.Decode(model).eval()
    del model.decoder  # it would be saved and loaded with the rest
    return graph.Encode(model).eval()


def _load(engine: str, folder: Path) -> Run:
    name, precision, *order = engine.split()
    if name == "torch":
        module = torch.load(folder / MODULE, weights_only=False)
        if order:
            module = module.to(memory_format=torch.channels_last)

        def run(array: Array) -> Array:
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                return np.asarray(module(torch.from_numpy(array)).numpy())

        return run
    inputs, _, run_graph = python_backend.load(
        folder / GRAPH, name, precision, len(os.sched_getaffinity(0)), max(BATCHES)
    )
    return lambda array: np.array(run_graph({inputs[0]: array})[0])


def _gemm(precision: str) -> float | None:
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}.get(precision)
    if dtype is None:
        return None
    a = torch.randn(GEMM_SIDE, GEMM_SIDE).to(dtype)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return 2 * GEMM_SIDE**3 / min(times) / 1e9


def _memory(name: str) -> int:
    """Bytes. VmRSS: resident now; VmHWM: at most, which getrusage would confuse with the parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])  # type: ignore[index]


class EngineProcess:
    """One engine on one graph, in a process of its own. made: what it makes of all that is given. peak_bytes: what that took of memory."""

    def __init__(self, engine: str, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=_child, args=(other, engine, task), daemon=True).start()
        self.peak_bytes: int
        self.made: Array
        self.peak_bytes, self.made = self._pipe.recv()

    def gemm(self) -> float | None:
        """GFLOP/s of a matrix product in the engine's arithmetic; None where torch has none. Needs memory of its own."""
        self._pipe.send("gemm")
        return cast(float | None, self._pipe.recv())

    def seconds(self, batch: int) -> float:
        """Of one run on so many images."""
        self._pipe.send(batch)
        return cast(float, self._pipe.recv())

    def stop(self) -> None:
        """The process ends."""
        self._pipe.send(None)


def _child(pipe: Connection, engine: str, task: Task) -> None:
    before = _memory("VmRSS")
    run = _load(engine, task.folder)
    largest = max(BATCHES)
    parts = [run(task.given[i : i + largest]) for i in range(0, len(task.given), largest)]
    pipe.send((_memory("VmHWM") - before, np.concatenate(parts)))
    while (asked := pipe.recv()) is not None:
        if asked == "gemm":
            pipe.send(_gemm(engine.split()[1]))
            continue
        started = time.perf_counter()
        run(task.given[:asked])
        pipe.send(time.perf_counter() - started)


def measure(task: Task, rounds: int) -> list[Result]:
    """All engines on one graph: medians of `rounds`."""
    engines = {engine: EngineProcess(engine, task) for engine in ENGINES[task.role]}
    gemms = {engine: process.gemm() for engine, process in engines.items()}
    times: dict[tuple[str, int], list[float]] = {
        (engine, batch): [] for engine in engines for batch in BATCHES
    }
    for _ in range(rounds):
        for engine, batch in times:
            times[engine, batch].append(engines[engine].seconds(batch) / batch)
    for process in engines.values():
        process.stop()
    results = []
    for engine, process in engines.items():
        rates = {batch: 1 / statistics.median(times[engine, batch]) for batch in BATCHES}
        error = (
            None
            if engine == REFERENCE
            else _error(task.role, process.made, engines[REFERENCE].made)
        )
        results.append(
            Result(
                engine,
                rates,
                max(rates.values()) * task.flops / 1e9,
                gemms[engine],
                process.peak_bytes,
                error,
            )
        )
    return results


def _error(role: Role, made: Array, due: Array) -> float:
    if role == "encode":
        return float(np.unpackbits((made ^ due).view(np.uint8)).sum() / (due.size * BITS))
    return float(fidelity.psnr(due, made).mean())


def table(size: str, role: Role, results: list[Result]) -> str:
    """Markdown."""
    speeds = " | ".join(f"images/s, batch {batch}" for batch in BATCHES)
    lines = [
        f"{size}, {role}",
        "",
        f"| engine | {speeds} | GFLOP/s | of the GEMM rate | peak memory, MB | against {REFERENCE} |",
        "|---" * (len(BATCHES) + 5) + "|",
    ]
    for result in results:
        rates = " | ".join(f"{rate:.2f}" for rate in result.rates.values())
        share = f"{result.gflops / result.gemm:.2f} of {result.gemm:.0f}" if result.gemm else ""
        error = (
            ""
            if result.error is None
            else f"{100 * result.error:.2f} % of bits"
            if role == "encode"
            else f"{result.error:.1f} dB"
        )
        lines.append(
            f"| {result.engine} | {rates} | {result.gflops:.0f} | {share} | {result.peak_bytes / 1e6:.0f} | {error} |"
        )
    return "\n".join(lines) + "\n"


def figures(size: str, role: Role, results: list[Result]) -> dict[str, float]:
    """A flat object of name -> number."""
    by_name = {result.engine: result for result in results}
    best = {engine: max(result.rates.values()) for engine, result in by_name.items()}
    bf16 = by_name["openvino bf16"]
    assert bf16.gemm is not None
    found = {"openvino_bf16_over_gemm": bf16.gflops / bf16.gemm}
    for name, engine in {
        "torch": "torch f32",
        "torch_channels_last": "torch f32 channels-last",
    }.items():
        found[f"openvino_bf16_over_{name}"] = best["openvino bf16"] / best[engine]
    if "openvino int8" in best:
        found["openvino_int8_over_bf16"] = best["openvino int8"] / best["openvino bf16"]
    for engine, result in by_name.items():
        key = re.sub("[ -]", "_", engine)
        for name, value in {
            "peak_bytes": result.peak_bytes,
            "gemm_gflops": result.gemm,
            "error": result.error,
        }.items():
            if value is not None:
                found[f"{key}_{name}"] = value
        for batch, rate in result.rates.items():
            found[f"{key}_batch_{batch}_images_per_s"] = rate
    return {f"{size}_{role}_{name}": value for name, value in found.items()}


def main() -> None:
    """Measure the sizes asked for and write build/bench-engines.json."""
    parser = argparse.ArgumentParser(
        prog="python -m export.bench.engines", description=main.__doc__
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "full"])
    parser.add_argument("--roles", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--data",
        required=True,
        help="photos: a folder of images or of .tar shards, one .tar, or a glob",
    )
    options = parser.parse_args()
    found: dict[str, float] = {}
    for size in options.sizes:
        for role in options.roles:
            with tempfile.TemporaryDirectory() as folder:
                results = measure(prepare(size, role, options.data, Path(folder)), options.rounds)
            print(table(size, role, results), flush=True)
            found |= figures(size, role, results)
    write_figures(REPORT, found)


if __name__ == "__main__":
    main()
