"""Acceptance test of a GPU host with Triton: numerics and speed of every engine, in a report.

Every graph that `python -m export gpu` wrote runs in Triton with TensorRT plans, in ONNX Runtime on
CUDA, and in PyTorch, eager and compiled. All are compared with ONNX Runtime in fp32 on the CPU. The
report lists engines that are not available as not run.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime
import torch
import tritonclient.grpc as triton_client
from tritonclient.utils import np_to_triton_dtype

from export.acceptance.compare import REPEATS, compare, time_it
from export.acceptance.engines import Array, Case, Run, load_cases, on_onnxruntime, on_torch
from export.acceptance.report import Report, machine
from export.graphs.random_model import random_model
from tokenizer import checkpoint
from tokenizer.models.channeltok import SIZES
from tokenizer.training.data import evaluation_photos

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
REQUESTS, CONCURRENCY = 512, 64
COUNTER_SECONDS = 5.0  # until Triton's counters include all requests
EPILOG = "Without Triton, on a host with PyTorch alone: python -m export.acceptance --bare --help"
COMPARED_BATCH = 32  # at most; results in it must equal those of each image alone


def on_triton(client: Any, cases: list[Case]) -> Run:
    """Triton. Model configurations are fetched once, because calls are timed."""
    configs = {case.name: client.get_model_config(case.name).config for case in cases}

    def run(name: str, array: Array) -> Array:
        return np.asarray(
            client.infer(name, [tensor(configs[name], array)]).as_numpy(
                configs[name].output[0].name
            )
        )

    return run


def tensor(config: Any, array: Array) -> Any:
    """The only input of a model, for Triton's client."""
    infer_input = triton_client.InferInput(
        config.input[0].name, array.shape, np_to_triton_dtype(array.dtype)
    )
    infer_input.set_data_from_numpy(array)
    return infer_input


def count_batches(report: Report, client: Any, cases: list[Case]) -> None:
    """Check by Triton's counters that single concurrent requests share executions."""
    report.add(
        "",
        f"Triton's counters over {REQUESTS} single requests, {CONCURRENCY} concurrent",
        "",
        "| model | executions | mean batch |",
        "|---|---|---|",
    )
    for case in cases:
        before = client.get_inference_statistics(case.name).model_stats[0]
        _send_singly(client, case)
        deadline = time.monotonic() + COUNTER_SECONDS
        served = 0
        # Triton counts a request after answering it.
        while served < REQUESTS and time.monotonic() < deadline:
            after = client.get_inference_statistics(case.name).model_stats[0]
            executions = after.execution_count - before.execution_count
            served = after.inference_count - before.inference_count
        report.add(f"| {case.name} | {executions} | {served / max(1, executions):.1f} |")
        report.figures[f"{case.name}_mean_batch"] = served / max(1, executions)
        # More than REQUESTS is fine: a gateway's probes count too.
        if served < REQUESTS or executions >= REQUESTS:
            report.violations.append(
                f"{case.name}: {served} of {REQUESTS} requests served in {executions} executions: "
                "dynamic batching does not work"
            )


def _send_singly(client: Any, case: Case) -> None:
    config = client.get_model_config(case.name).config
    done: SimpleQueue[Any] = SimpleQueue()
    for i in range(REQUESTS):
        if i >= CONCURRENCY:
            _raise(done.get())
        image = case.inputs[i % len(case.inputs)][None]
        client.async_infer(
            case.name, [tensor(config, image)], lambda result, error: done.put(error)
        )
    for _ in range(min(CONCURRENCY, REQUESTS)):
        _raise(done.get())


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def compare_cuda_graphs(report: Report, client: Any, cases: list[Case]) -> None:
    """Check by Triton's counters that CUDA graphs shorten the compute time of one image."""
    report.add(
        "",
        "CUDA graphs, by Triton's counters: ms of compute for one image",
        "",
        "| model | with | without |",
        "|---|---|---|",
    )
    for case in cases:
        config = client.get_model_config(case.name, as_json=True)["config"]
        if not config.get("optimization", {}).get("cuda", {}).get("graphs"):
            report.add(f"| {case.name} | not configured | |")
            continue
        milliseconds = []
        try:
            for enabled in (True, False):
                config["optimization"]["cuda"]["graphs"] = enabled
                client.load_model(case.name, config=json.dumps(config))
                milliseconds.append(_compute_ms(client, case))
        finally:
            client.load_model(case.name)  # with its own configuration again
        report.add(
            f"| {case.name} | " + " | ".join(f"{value:.3f}" for value in milliseconds) + " |"
        )
        if milliseconds[0] >= milliseconds[1]:
            report.violations.append(
                f"{case.name}: {milliseconds[0]:.3f} ms with CUDA graphs, "
                f"{milliseconds[1]:.3f} without: they do not run"
            )


def _compute_ms(client: Any, case: Case) -> float:
    run = on_triton(client, [case])
    run(case.name, case.inputs[:1])
    before = client.get_inference_statistics(case.name).model_stats[0].inference_stats.compute_infer
    for _ in range(10 * REPEATS):
        run(case.name, case.inputs[:1])
    after = client.get_inference_statistics(case.name).model_stats[0].inference_stats.compute_infer
    return float(after.ns - before.ns) / (after.count - before.count) / 1e6


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export.acceptance", description=main.__doc__, epilog=EPILOG
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("checkpoint", nargs="?", type=Path)
    source.add_argument(
        "--random", choices=SIZES, help="the graphs of `python -m export gpu --random SIZE`"
    )
    parser.add_argument(
        "--data", required=True, help="photos: a folder of images or of .tar shards"
    )
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path("build/gpu_repository"),
        help="graphs, from `python -m export gpu`",
    )
    parser.add_argument(
        "--triton",
        help="gRPC HOST:PORT of a Triton that serves them in explicit mode; without it, skipped",
    )
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("build/gpu-acceptance"),
        help="report.md and report.json",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run everything, write the report, and exit with 1 when a bound does not hold."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    options.output.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    model = (
        checkpoint.load(options.checkpoint)
        if options.random is None
        else random_model(options.random)
    )
    cases = load_cases(
        options.repository,
        model,
        evaluation_photos(options.data, model.shape.image_size, options.photos),
    )
    report = Report()
    report.add(
        f"# GPU acceptance of {checkpoint.fingerprint(model)}",
        "",
        f"{len(cases[0].inputs)} photos. {machine()}",
    )

    cuda = torch.cuda.is_available()
    client = triton_client.InferenceServerClient(options.triton) if options.triton else None
    engines: dict[str, Callable[[], Run] | str] = {
        "Triton": (lambda: on_triton(client, cases)) if client else "no --triton given",
        "ONNX Runtime CUDA": (lambda: on_onnxruntime(cases))
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        else "this onnxruntime has no CUDA: install onnxruntime-gpu in its place",
        "PyTorch": (lambda: on_torch(cases, model, compiled=False)) if cuda else "no GPU",
        "PyTorch compiled": (lambda: on_torch(cases, model, compiled=True)) if cuda else "no GPU",
    }
    for engine, start in engines.items():
        if isinstance(start, str):
            report.add("", f"### {engine}", "", f"Not run: {start}.")
            continue
        run = start()
        compare(report, engine, run, cases, min(COMPARED_BATCH, max(options.batches)))
        time_it(report, engine, run, cases, options.batches, REPEATS)
    if client is not None:
        count_batches(report, client, cases)
        compare_cuda_graphs(report, client, cases)

    report.add("", "## Verdict", "", *(report.violations or ["All bounds hold."]))
    report.write(options.output)
    if report.violations:
        sys.exit(1)
