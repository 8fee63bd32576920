"""`make gpu-acceptance`: does a GPU serve what the checkpoint does, and how fast? Writes a report.

Every graph that `python -m export engines` wrote runs on each engine that is here: Triton with TensorRT plans, ONNX Runtime on CUDA,
PyTorch eager and compiled. All are compared with ONNX Runtime in fp32 on the CPU. The report names an engine that is not here as not run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime
import torch
import tritonclient.grpc as triton_client

from export.gpu_engines import Array, Case, Run, cases, on_onnxruntime, on_torch, on_triton, tensor
from export.random_model import random_model
from tokenizer import checkpoint
from tokenizer.channeltok import SIZES
from tokenizer.data import evaluation_photos
from tokenizer.quantize import BITS

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
REPEATS = 20
REQUESTS, AT_ONCE = 512, 64
COUNTING_SECONDS = 5.0
MAX_PIXEL_DIFFERENCE = 2  # fp16 decode against fp32; half of it is the rounding to whole pixels
COMPARED_BATCH = 32  # in which a picture's result must be what it is alone; less where no such batch is timed
MAX_FLIPPED_SHARE = 1e-4  # fp32 encode on a GPU adds up in another order than the CPU


@dataclass
class Report:
    """Grows line by line; broken holds a sentence for everything that must not be."""

    lines: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def say(self, *lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        self.lines.extend(lines)


def in_batches(run: Run, case: Case, batch: int) -> Array:
    return np.concatenate([run(case.name, case.given[i : i + batch]) for i in range(0, len(case.given), batch)])


def compare(report: Report, engine: str, run: Run, of: list[Case], batch: int) -> None:
    """Bits and pixels against fp32, and whether a picture's result depends on its neighbours in a batch."""
    report.say("", f"### {engine}", "", f"| model | against fp32 on the CPU | alone and in a batch of {batch} |", "|---|---|---|")
    for case in of:
        together = in_batches(run, case, batch)
        alone = in_batches(run, Case(case.name, case.facts, case.model, case.given[:32], case.due), 1)
        differing = int((alone != together[:32]).sum())
        if case.facts.role == "encode":
            flipped = int(np.unpackbits((together ^ case.due).view(np.uint8)).sum())
            share = flipped / (case.due.size * BITS)
            said = f"{flipped} of {case.due.size * BITS:,} bits flipped"
            if share > MAX_FLIPPED_SHARE:
                report.broken.append(f"{engine}, {case.name}: {said}")
            if differing:
                report.broken.append(f"{engine}, {case.name}: {differing} tokens depend on what shares the batch")
        else:
            difference = np.abs(together.astype(np.int16) - case.due)
            said = f"largest pixel difference {difference.max()}, mean {difference.mean():.4f}"
            if difference.max() > MAX_PIXEL_DIFFERENCE:
                report.broken.append(f"{engine}, {case.name}: {said}")
        report.say(f"| {case.name} | {said} | {'the same' if not differing else f'{differing:,} values differ'} |")


def time_it(report: Report, engine: str, run: Run, of: list[Case], batches: list[int]) -> None:
    """Latency and throughput of one caller by batch: encode, and decode at the largest budget."""
    largest = max((case for case in of if case.facts.role == "decode"), key=lambda case: case.facts.budget)
    report.say(
        "",
        f"{engine}: ms (pictures/s) by batch",
        "",
        "| model | " + " | ".join(map(str, batches)) + " |",
        "|---" * (len(batches) + 1) + "|",
    )
    for case in (*(case for case in of if case.facts.role == "encode"), largest):
        cells = []
        for batch in batches:
            given = np.resize(case.given, (batch, *case.given.shape[1:]))
            run(case.name, given)
            times = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                run(case.name, given)
                times.append(time.perf_counter() - started)
            median = statistics.median(times)
            report.figures[f"{engine.replace(' ', '_')}_{case.facts.role}_batch_{batch}_ms"] = 1000 * median
            cells.append(f"{1000 * median:.1f} ({batch / median:.0f})")
        report.say(f"| {case.name} | " + " | ".join(cells) + " |")


def count_batches(report: Report, client: Any, of: list[Case]) -> None:
    """Triton's own counters over single pictures sent many at once: fewer executions than requests, or its batching does not work."""
    report.say(
        "",
        f"Triton's counters over {REQUESTS} single requests, {AT_ONCE} at once",
        "",
        "| model | executions | mean batch |",
        "|---|---|---|",
    )
    for case in of:
        before = client.get_inference_statistics(case.name).model_stats[0]
        _send_singly(client, case)
        until = time.monotonic() + COUNTING_SECONDS
        served = 0
        while served < REQUESTS and time.monotonic() < until:  # Triton counts a request after it was answered
            after = client.get_inference_statistics(case.name).model_stats[0]
            executions = after.execution_count - before.execution_count
            served = after.inference_count - before.inference_count
        report.say(f"| {case.name} | {executions} | {served / max(1, executions):.1f} |")
        report.figures[f"{case.name}_mean_batch"] = served / max(1, executions)
        if served < REQUESTS or executions >= REQUESTS:  # others may send too: a gateway probes
            report.broken.append(
                f"{case.name}: {served} of {REQUESTS} requests served in {executions} executions: dynamic batching does not work"
            )


def _send_singly(client: Any, case: Case) -> None:
    config = client.get_model_config(case.name).config
    done: SimpleQueue[Any] = SimpleQueue()
    for i in range(REQUESTS):
        if i >= AT_ONCE:
            _raise(done.get())
        one = case.given[i % len(case.given)][None]
        client.async_infer(case.name, [tensor(config, one)], lambda result, error: done.put(error))
    for _ in range(min(AT_ONCE, REQUESTS)):
        _raise(done.get())


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def compare_cuda_graphs(report: Report, client: Any, of: list[Case]) -> None:
    """Triton's own compute time for one picture with CUDA graphs and, the same model loaded again, without: they have to help."""
    report.say("", "CUDA graphs, by Triton's counters: ms of compute for one picture", "", "| model | with | without |", "|---|---|---|")
    for case in of:
        config = client.get_model_config(case.name, as_json=True)["config"]
        if not config.get("optimization", {}).get("cuda", {}).get("graphs"):
            report.say(f"| {case.name} | not asked for | |")
            continue
        milliseconds = []
        try:
            for asked in (True, False):
                config["optimization"]["cuda"]["graphs"] = asked
                client.load_model(case.name, config=json.dumps(config))
                milliseconds.append(_compute_ms(client, case))
        finally:
            client.load_model(case.name)  # as it lies in the repository
        report.say(f"| {case.name} | " + " | ".join(f"{value:.3f}" for value in milliseconds) + " |")
        if milliseconds[0] >= milliseconds[1]:
            report.broken.append(f"{case.name}: {milliseconds[0]:.3f} ms with CUDA graphs, {milliseconds[1]:.3f} without: they do not run")


def _compute_ms(client: Any, case: Case) -> float:
    run = on_triton(client, [case])
    run(case.name, case.given[:1])
    before = client.get_inference_statistics(case.name).model_stats[0].inference_stats.compute_infer
    for _ in range(10 * REPEATS):
        run(case.name, case.given[:1])
    after = client.get_inference_statistics(case.name).model_stats[0].inference_stats.compute_infer
    return float(after.ns - before.ns) / (after.count - before.count) / 1e6


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m export.gpu_acceptance", description=main.__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("checkpoint", nargs="?", type=Path)
    source.add_argument("--random", choices=SIZES, help="the graphs of `python -m export engines --random SIZE`")
    parser.add_argument("--data", required=True, help="photos: a folder of pictures or of .tar shards")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--repository", type=Path, default=Path("build/gpu_repository"), help="graphs, from `python -m export engines`")
    parser.add_argument("--triton", help="gRPC HOST:PORT of a Triton that serves them in explicit mode; without it Triton is not run")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-acceptance"), help="report.md and report.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run everything, write the report, and exit with 1 when a bound is broken."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    model = checkpoint.load(options.checkpoint) if options.random is None else random_model(options.random)
    of = cases(options.repository, model, evaluation_photos(options.data, model.shape.picture_size, options.photos))
    report = Report()
    report.say(f"# GPU acceptance of {checkpoint.fingerprint(model)}", "", f"{len(of[0].given)} photos. {_machine()}")

    cuda = torch.cuda.is_available()
    client = triton_client.InferenceServerClient(options.triton) if options.triton else None
    engines: dict[str, Callable[[], Run] | str] = {
        "Triton": (lambda: on_triton(client, of)) if client else "no --triton given",
        "ONNX Runtime CUDA": (lambda: on_onnxruntime(of))
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        else "this onnxruntime has no CUDA: install onnxruntime-gpu in its place",
        "PyTorch": (lambda: on_torch(of, model, compiled=False)) if cuda else "no GPU",
        "PyTorch compiled": (lambda: on_torch(of, model, compiled=True)) if cuda else "no GPU",
    }
    for engine, start in engines.items():
        if isinstance(start, str):
            report.say("", f"### {engine}", "", f"Not run: {start}.")
            continue
        run = start()
        compare(report, engine, run, of, min(COMPARED_BATCH, max(options.batches)))
        time_it(report, engine, run, of, options.batches)
    if client is not None:
        count_batches(report, client, of)
        compare_cuda_graphs(report, client, of)

    report.say("", "## Verdict", "", *(report.broken or ["All bounds hold."]))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.md").write_text("\n".join(report.lines) + "\n")
    (options.output / "report.json").write_text(json.dumps(report.figures, indent=2) + "\n")
    if report.broken:
        sys.exit(1)


def _machine() -> str:
    try:
        gpu = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    except FileNotFoundError:
        gpu = ""
    return f"GPU: {gpu or 'none'}. torch {torch.__version__}, onnxruntime {onnxruntime.__version__}."


if __name__ == "__main__":
    main()
