"""`make bench-engines`: whatever can run a decoder or an encoder on this processor, side by side in one run.

Each engine runs in a process of its own, on all cores, so that its peak memory is its own; each process first measures the rate of a large
matrix product in the engine's arithmetic, which is the most the processor gives. Rounds go through all engines in turn.
"""

import argparse
import json
import multiprocessing
import os
import resource
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
from torch.utils.flop_counter import FlopCounterMode

from export import graph, triton_model
from tokenizer.channeltok import SIZES, ChannelTok

Role = Literal["encode", "decode"]
Run = Callable[[NDArray[Any]], Any]
ENGINES = ("torch f32", "torch bf16", "onnxruntime f32", "openvino f32", "openvino bf16")
BATCHES = (1, 4)
GEMM_SIDE = 4096
REPORT = Path("build/bench-engines.json")


@dataclass(frozen=True)
class Result:
    """One engine on one graph. rates: pictures/s by batch. gflops: of the faster. gemm: GFLOP/s of a matrix product, same process."""

    engine: str
    rates: dict[int, float]
    gflops: float
    gemm: float
    peak_bytes: int


def model_of(size: str) -> ChannelTok:
    """Random weights: speed does not depend on them."""
    torch.manual_seed(0)
    return ChannelTok(SIZES[size]).half().float().eval()


def work(size: str, role: Role) -> float:
    """Floating-point operations for one picture: two for each multiply-add of convolutions and attention."""
    model = model_of(size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        _torch(model, role, torch.float32)(example(model, role, 1))
    return float(counter.get_total_flops())


def example(model: ChannelTok, role: Role, batch: int) -> NDArray[Any]:
    """Noise of the right shape and type."""
    random, shape = np.random.default_rng(0), model.shape
    if role == "encode":
        return random.integers(0, 256, (batch, shape.picture_size, shape.picture_size, 3), dtype=np.uint8)
    return random.integers(0, 2**16, (batch, shape.channels), dtype=np.int32)


def _torch(model: ChannelTok, role: Role, dtype: torch.dtype) -> Run:
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = (graph.Encode(model) if role == "encode" else graph.Decode(model, model.shape.channels)).eval()

    def run(array: NDArray[Any]) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return module(torch.from_numpy(array))

    return run


def _load(engine: str, size: str, role: Role, path: str) -> Run:
    name, _, precision = engine.partition(" ")
    cores = len(os.sched_getaffinity(0))
    if name == "torch":
        return _torch(model_of(size), role, torch.bfloat16 if precision == "bf16" else torch.float32)
    inputs, _, run = triton_model.load(Path(path), name, precision, cores)
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


def _child(pipe: Connection, engine: str, size: str, role: Role, path: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = _load(engine, size, role, path)
    arrays = {batch: example(model_of(size), role, batch) for batch in BATCHES}
    for array in arrays.values():
        run(array)
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)  # before the product below takes its own
    pipe.send((peak, _gemm(engine.partition(" ")[2])))
    while (batch := pipe.recv()) is not None:
        started = time.perf_counter()
        run(arrays[batch])
        pipe.send(time.perf_counter() - started)


def measure(size: str, role: Role, rounds: int) -> list[Result]:
    """All engines on one graph: medians of `rounds`."""
    flops = work(size, role)
    model = model_of(size)
    made = graph.encode_graph(model, size) if role == "encode" else graph.decode_graph(model, size, model.shape.channels)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        Path(path).write_bytes(made.SerializeToString())
        del made, model
        pipes: dict[str, Connection] = {}
        firsts: dict[str, tuple[int, float]] = {}
        times: dict[str, dict[int, list[float]]] = {engine: {batch: [] for batch in BATCHES} for engine in ENGINES}
        for engine in ENGINES:  # one after the other, so that each measures its matrix product alone
            pipes[engine], other = context.Pipe()
            context.Process(target=_child, args=(other, engine, size, role, path), daemon=True).start()
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
