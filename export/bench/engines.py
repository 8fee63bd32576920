"""`make bench-engines`: every engine that runs an encoder or decoder on this CPU, in one run.

Each engine runs in a process of its own, on all cores, which gives its peak memory. The process
also measures a large matrix product in the engine's precision, the processor's upper bound. Rounds
alternate between engines. The demo size has its trained weights, other sizes random ones: accuracy
depends on them, speed does not.
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
# PyTorch eager in its default memory layout and in the one that is faster for convolutions.
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

    rates: images/s by batch. gflops: GFLOP/s of the fastest batch.
    gemm: GFLOP/s of a matrix product in the same process; None where torch has no such precision.
    error: against REFERENCE, PSNR in dB (decode) or share of token bits that differ (encode); None
    for the reference itself.
    """

    engine: str
    rates: dict[int, float]
    gflops: float
    gemm: float | None
    peak_bytes: int
    error: float | None


@dataclass(frozen=True)
class Task:
    """What an engine runs: a folder with graph, int8 graph and PyTorch module, and inputs.

    flops: floating-point operations per image.
    """

    role: Role
    folder: Path
    inputs: Array
    flops: float


def prepare(size: str, role: Role, data: str, folder: Path) -> Task:
    """Write the files that the engines load, so that a process holds only what its engine needs."""
    trained = size == "demo"
    model = checkpoint.load(DEMO) if trained else random_model(size)
    channels, side = model.shape.channels, model.shape.image_size
    compared, calibration = (64, int8.CALIBRATION_PHOTOS) if trained else (max(BATCHES), 2)
    photos = evaluation_photos(data, side, compared + calibration)
    if len(photos) <= compared:
        sys.exit(
            f"{data} has {len(photos)} photos: {compared} are needed to compare, "
            "and more to calibrate int8"
        )
    if role == "encode":
        inputs = photos[:compared]
        exported = graph.encode_graph(model, size).SerializeToString()
    else:
        tokens = inference.encode(model, photos).numpy()
        inputs = tokens[:compared]
        exported = graph.decode_graph(model, size, channels).SerializeToString()
        int8_graph = int8.quantise(exported, tokens[compared:])
        (folder / python_backend.INT8_GRAPH).write_bytes(int8_graph)
    (folder / GRAPH).write_bytes(exported)
    module = _module(model, role)
    torch.save(module, folder / MODULE)
    # Two operations per multiply-add of convolutions and attention.
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.from_numpy(inputs[:1]))
    return Task(role, folder, inputs, counter.get_total_flops())


def _module(model: Tokenizer, role: Role) -> nn.Module:
    if role == "decode":
        del model.encoder  # torch.save would include it
        return graph.Decode(model).eval()
    del model.decoder
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
    """Bytes of VmRSS (resident now) or VmHWM (peak; getrusage would include the parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])  # type: ignore[index]


class EngineProcess:
    """One engine on one graph, in a process of its own.

    outputs: for all inputs of the task. peak_bytes: memory that loading and running took.
    """

    def __init__(self, engine: str, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=_child, args=(other, engine, task), daemon=True).start()
        self.peak_bytes: int
        self.outputs: Array
        self.peak_bytes, self.outputs = self._pipe.recv()

    def gemm(self) -> float | None:
        """GFLOP/s of a matrix product in the engine's precision; None where torch has none."""
        self._pipe.send("gemm")
        return cast(float | None, self._pipe.recv())

    def seconds(self, batch: int) -> float:
        """Seconds of one run on `batch` images."""
        self._pipe.send(batch)
        return cast(float, self._pipe.recv())

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(None)


def _child(pipe: Connection, engine: str, task: Task) -> None:
    before = _memory("VmRSS")
    run = _load(engine, task.folder)
    largest = max(BATCHES)
    parts = [run(task.inputs[i : i + largest]) for i in range(0, len(task.inputs), largest)]
    pipe.send((_memory("VmHWM") - before, np.concatenate(parts)))
    while (command := pipe.recv()) is not None:
        if command == "gemm":
            pipe.send(_gemm(engine.split()[1]))
            continue
        started = time.perf_counter()
        run(task.inputs[:command])
        pipe.send(time.perf_counter() - started)


def measure(task: Task, rounds: int) -> list[Result]:
    """Run all engines on one graph; rates are medians over `rounds`."""
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
            else _error(task.role, process.outputs, engines[REFERENCE].outputs)
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


def _error(role: Role, outputs: Array, expected: Array) -> float:
    if role == "encode":
        return float(
            np.unpackbits((outputs ^ expected).view(np.uint8)).sum() / (expected.size * BITS)
        )
    return float(fidelity.psnr(expected, outputs).mean())


def table(size: str, role: Role, results: list[Result]) -> str:
    """The results as a Markdown table."""
    speeds = " | ".join(f"images/s, batch {batch}" for batch in BATCHES)
    lines = [
        f"{size}, {role}",
        "",
        f"| engine | {speeds} | GFLOP/s | of the GEMM rate | peak memory, MB "
        f"| against {REFERENCE} |",
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
            f"| {result.engine} | {rates} | {result.gflops:.0f} | {share} "
            f"| {result.peak_bytes / 1e6:.0f} | {error} |"
        )
    return "\n".join(lines) + "\n"


def figures(size: str, role: Role, results: list[Result]) -> dict[str, float]:
    """The results as name -> number, with ratios of the engines."""
    by_name = {result.engine: result for result in results}
    best = {engine: max(result.rates.values()) for engine, result in by_name.items()}
    bf16 = by_name["openvino bf16"]
    assert bf16.gemm is not None
    values = {"openvino_bf16_over_gemm": bf16.gflops / bf16.gemm}
    for name, engine in {
        "torch": "torch f32",
        "torch_channels_last": "torch f32 channels-last",
    }.items():
        values[f"openvino_bf16_over_{name}"] = best["openvino bf16"] / best[engine]
    if "openvino int8" in best:
        values["openvino_int8_over_bf16"] = best["openvino int8"] / best["openvino bf16"]
    for engine, result in by_name.items():
        key = re.sub("[ -]", "_", engine)
        for name, value in {
            "peak_bytes": result.peak_bytes,
            "gemm_gflops": result.gemm,
            "error": result.error,
        }.items():
            if value is not None:
                values[f"{key}_{name}"] = value
        for batch, rate in result.rates.items():
            values[f"{key}_batch_{batch}_images_per_s"] = rate
    return {f"{size}_{role}_{name}": value for name, value in values.items()}


def main() -> None:
    """Measure the chosen sizes and write build/bench-engines.json."""
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
    measured: dict[str, float] = {}
    for size in options.sizes:
        for role in options.roles:
            with tempfile.TemporaryDirectory() as folder:
                results = measure(prepare(size, role, options.data, Path(folder)), options.rounds)
            print(table(size, role, results), flush=True)
            measured |= figures(size, role, results)
    write_figures(REPORT, measured)


if __name__ == "__main__":
    main()
