"""The acceptance beside a Triton: does a GPU serve what the checkpoint does, and how fast? Writes a report.

Every graph that `python -m export gpu` wrote runs on each engine that is here: Triton with TensorRT plans, ONNX Runtime on CUDA,
PyTorch eager and compiled. All are compared with ONNX Runtime in fp32 on the CPU. The report names an engine that is not here as not run.
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
from export.acceptance.engines import Array, Case, Run, cases, on_onnxruntime, on_torch
from export.acceptance.report import Report, machine
from export.graphs.random_model import random_model
from tokenizer import checkpoint
from tokenizer.models.channeltok import SIZES
from tokenizer.training.data import evaluation_photos

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
REQUESTS, AT_ONCE = 512, 64
COUNTING_SECONDS = 5.0
EPILOG = "Without Triton, on a host with PyTorch alone: python -m export.acceptance --bare --help"
COMPARED_BATCH = (
    32  # in which an image's result must be what it is alone; less where no such batch is timed
)


def on_triton(client: Any, of: list[Case]) -> Run:
    configs = {
        case.name: client.get_model_config(case.name).config for case in of
    }  # asked once: calls are timed

    def run(name: str, array: Array) -> Array:
        return np.asarray(
            client.infer(name, [tensor(configs[name], array)]).as_numpy(
                configs[name].output[0].name
            )
        )

    return run


def tensor(config: Any, array: Array) -> Any:
    """What Triton's client sends as the one input of a model."""
    given = triton_client.InferInput(
        config.input[0].name, array.shape, np_to_triton_dtype(array.dtype)
    )
    given.set_data_from_numpy(array)
    return given


def count_batches(report: Report, client: Any, of: list[Case]) -> None:
    """Triton's own counters over single images sent many at once: fewer executions than requests, or its batching does not work."""
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
        while (
            served < REQUESTS and time.monotonic() < until
        ):  # Triton counts a request after it was answered
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
    """Triton's own compute time for one image with CUDA graphs and, the same model loaded again, without: they have to help."""
    report.say(
        "",
        "CUDA graphs, by Triton's counters: ms of compute for one image",
        "",
        "| model | with | without |",
        "|---|---|---|",
    )
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
        report.say(
            f"| {case.name} | " + " | ".join(f"{value:.3f}" for value in milliseconds) + " |"
        )
        if milliseconds[0] >= milliseconds[1]:
            report.broken.append(
                f"{case.name}: {milliseconds[0]:.3f} ms with CUDA graphs, {milliseconds[1]:.3f} without: they do not run"
            )


def _compute_ms(client: Any, case: Case) -> float:
    run = on_triton(client, [case])
    run(case.name, case.given[:1])
    before = client.get_inference_statistics(case.name).model_stats[0].inference_stats.compute_infer
    for _ in range(10 * REPEATS):
        run(case.name, case.given[:1])
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
        help="gRPC HOST:PORT of a Triton that serves them in explicit mode; without it Triton is not run",
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
    """Run everything, write the report, and exit with 1 when a bound is broken."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    options.output.mkdir(
        parents=True, exist_ok=True
    )  # before the work: where it cannot be written, it would be lost
    model = (
        checkpoint.load(options.checkpoint)
        if options.random is None
        else random_model(options.random)
    )
    of = cases(
        options.repository,
        model,
        evaluation_photos(options.data, model.shape.image_size, options.photos),
    )
    report = Report()
    report.say(
        f"# GPU acceptance of {checkpoint.fingerprint(model)}",
        "",
        f"{len(of[0].given)} photos. {machine()}",
    )

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
        time_it(report, engine, run, of, options.batches, REPEATS)
    if client is not None:
        count_batches(report, client, of)
        compare_cuda_graphs(report, client, of)

    report.say("", "## Verdict", "", *(report.broken or ["All bounds hold."]))
    report.write(options.output)
    if report.broken:
        sys.exit(1)
