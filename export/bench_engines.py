"""`make bench-engines`: whatever can run a decoder or an encoder on this processor, side by side in one run.

Each engine runs in a process of its own, on all cores, so that its peak memory is its own; each process first measures the rate of a large
matrix product in the engine's arithmetic, which is the most the processor gives. Rounds go through all engines in turn.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export import graph, triton_model
from export.random_model import random_model
from tokenizer.channeltok import SIZES

Role = Literal["encode", "decode"]
Run = Callable[[NDArray[Any]], Any]
ENGINES = ("torch f32", "torch bf16", "onnxruntime f32", "openvino f32", "openvino bf16")
BATCHES = (1, 4)
GEMM_SIDE = 4096
MODULE, GRAPH = "module.pt", "model.onnx"
REPORT = Path("build/bench-engines.json")


@dataclass(frozen=True)
class Result:
    """One engine on one graph. rates: pictures/s by batch. gflops: of the faster. gemm: GFLOP/s of a matrix product, same process."""

    engine: str
    rates: dict[int, float]
    gflops: float
    gemm: float
    peak_bytes: int


def work(module: nn.Module, array: NDArray[Any]) -> float:
    """Floating-point operations for one picture: two for each multiply-add of convolutions and attention."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.from_numpy(array))
    return counter.get_total_flops() / len(array)


def example(size: str, role: Role, batch: int) -> NDArray[Any]:
    """Noise of the right shape and type."""
    random, shape = np.random.default_rng(0), SIZES[size]
    if role == "encode":
        return random.integers(0, 256, (batch, shape.picture_size, shape.picture_size, 3), dtype=np.uint8)
    return random.integers(0, 2**16, (batch, shape.channels), dtype=np.int32)


def _torch(module: nn.Module, precision: str) -> Run:
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(array: NDArray[Any]) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return module(torch.from_numpy(array))

    return run


def _load(engine: str, folder: Path) -> Run:
    name, _, precision = engine.partition(" ")
    if name == "torch":
        return _torch(torch.load(folder / MODULE, weights_only=False), precision)
    inputs, _, run = triton_model.load(folder / GRAPH, name, precision, len(os.sched_getaffinity(0)))
    return lambda array: run({inputs[0]: array})


def _gemm(precision: str) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
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


def _child(pipe: Connection, engine: str, size: str, role: Role, folder: Path) -> None:
    before = _memory("VmRSS")
    run = _load(engine, folder)
    arrays = {batch: example(size, role, batch) for batch in BATCHES}
    for array in arrays.values():
        run(array)
    peak = _memory("VmHWM") - before  # taken before the product below needs memory of its own
    pipe.send((peak, _gemm(engine.partition(" ")[2])))
    while (batch := pipe.recv()) is not None:
        started = time.perf_counter()
        run(arrays[batch])
        pipe.send(time.perf_counter() - started)


def _write(folder: Path, size: str, role: Role) -> float:
    """The graph and the module it came from, as files, so that a child holds no more than its engine does. Returns operations a picture."""
    model = random_model(size)
    channels = model.shape.channels
    made = graph.encode_graph(model, size) if role == "encode" else graph.decode_graph(model, size, channels)
    (folder / GRAPH).write_bytes(made.SerializeToString())
    module = graph.Encode(model) if role == "encode" else graph.Decode(model, channels)
    if role == "encode":
        del model.decoder  # it would be saved and loaded with the rest
    torch.save(module.eval(), folder / MODULE)
    return work(module, example(size, role, 1))


def measure(size: str, role: Role, rounds: int) -> list[Result]:
    """All engines on one graph: medians of `rounds`."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        flops = _write(folder, size, role)
        pipes: dict[str, Connection] = {}
        firsts: dict[str, tuple[int, float]] = {}
        times: dict[str, dict[int, list[float]]] = {engine: {batch: [] for batch in BATCHES} for engine in ENGINES}
        for engine in ENGINES:  # one after the other, so that each measures its matrix product alone
            pipes[engine], other = context.Pipe()
            context.Process(target=_child, args=(other, engine, size, role, folder), daemon=True).start()
            firsts[engine] = pipes[engine].recv()
        for _ in range(rounds):
            for engine, pipe in pipes.items():
                for batch in BATCHES:
                    pipe.send(batch)
                    times[engine][batch].append(pipe.recv() / batch)
        for pipe in pipes.values():
            pipe.send(None)
    results = []
    for engine in ENGINES:
        rates = {batch: 1 / statistics.median(times[engine][batch]) for batch in BATCHES}
        peak, gemm = firsts[engine]
        results.append(Result(engine, rates, max(rates.values()) * flops / 1e9, gemm, peak))
    return results


def table(size: str, role: Role, results: list[Result]) -> str:
    """Markdown."""
    lines = [
        f"{size}, {role}",
        "",
        "| engine | " + " | ".join(f"pictures/s, batch {batch}" for batch in BATCHES) + " | GFLOP/s | of the GEMM rate | peak memory, MB |",
        "|---" * (len(BATCHES) + 4) + "|",
    ]
    for result in results:
        rates = " | ".join(f"{rate:.2f}" for rate in result.rates.values())
        share = result.gflops / result.gemm
        lines.append(
            f"| {result.engine} | {rates} | {result.gflops:.0f} | {share:.2f} of {result.gemm:.0f} | {result.peak_bytes / 1e6:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the sizes asked for and write build/bench-engines.json."""
    parser = argparse.ArgumentParser(prog="python -m export.bench_engines", description=main.__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "full"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for size in options.sizes:
        for role in ("encode", "decode"):
            results = measure(size, role, options.rounds)
            print(table(size, role, results), flush=True)
            by_name = {result.engine: result for result in results}
            fastest, eager = by_name["openvino bf16"], by_name["torch f32"]
            figures[f"{size}_{role}_openvino_bf16_over_gemm"] = fastest.gflops / fastest.gemm
            figures[f"{size}_{role}_openvino_bf16_over_torch"] = max(fastest.rates.values()) / max(eager.rates.values())
            for result in results:
                for name, value in asdict(result).items():
                    if isinstance(value, float | int):
                        figures[f"{size}_{role}_{result.engine.replace(' ', '_')}_{name}"] = value
                for batch, rate in result.rates.items():
                    figures[f"{size}_{role}_{result.engine.replace(' ', '_')}_batch_{batch}_pictures_per_s"] = rate
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
