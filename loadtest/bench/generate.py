"""`make bench-generate`: Generate through the service against the step graph in a bare loop.

One caller at a time asks for all tokens of a sequence over gRPC; the bare loop runs the same steps
of the same graph in this process, on one thread as the service does. They run in turns, and each
ratio is the median of the rounds' ratios.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from channeltok import Client, GenerateParams, NewTokens

from export.triton.generator_backend import GeneratorSession, gumbel
from loadtest.harness.bare_graph import REPOSITORY
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from service.core.generation import TEMPERATURE, TOP_K

WEIGHTS = Path("generator/weights/demo.safetensors")
REPORT = Path("build/bench-generate.json")


def main() -> None:
    """Measure, print, and write build/bench-generate.json."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.generate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="sequences of each (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(REPOSITORY, models)
        export = [sys.executable, "-m", "export", "generator", str(WEIGHTS), "--sequences", "1"]
        subprocess.run([*export, "--repository", str(models)], check=True)
        write_report(REPORT, measure(models, options.rounds))


def measure(models: Path, rounds: int) -> dict[str, float]:
    """Measure and print; returns the figures by name. models: a repository with one generator."""
    (graph,) = models.glob("*_generate/1/model.onnx")
    session = GeneratorSession(str(graph), threads=1)
    rows = []
    with running(model_repository=str(models)) as service, Client(service.grpc) as client:
        for seed in range(rounds + 1):
            bare, ids = _bare(session, seed)
            first, whole, served_ids = _served(client, seed)
            if served_ids != ids:
                raise RuntimeError(f"seed {seed}: the service's tokens are not the graph's")
            if seed:  # the first turn warms up
                rows.append((whole / bare, bare, whole, first))
    ratio, bare, whole, first = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"{session.channels} tokens, medians of {rounds}: bare {bare:.3f} s, served {whole:.3f} s, "
        f"{ratio:.2f} times as long; the first token after {first:.3f} s"
    )
    return {
        "generate_served_over_graph": ratio,
        "generate_graph_seconds": bare,
        "generate_served_seconds": whole,
        "generate_first_token_seconds": first,
    }


def _bare(session: GeneratorSession, seed: int) -> tuple[float, list[int]]:
    """(seconds of all steps, the tokens)"""
    started = time.perf_counter()
    generation = session.begin(-1, TEMPERATURE, min(TOP_K, session.values))
    ids: list[int] = []
    newest = -1
    for index in range(session.channels):
        noise = gumbel(seed, index, session.draws, session.values)
        newest, _ = generation.step(np.array([newest]), noise)
        ids.append(newest)
    return time.perf_counter() - started, ids


def _served(client: Client, seed: int) -> tuple[float, float, list[int]]:
    """(seconds to the first token, and to the end; the tokens)"""
    ids: list[int] = []
    first = 0.0
    started = time.perf_counter()
    for event in client.generate(GenerateParams(seed=seed)):
        if isinstance(event, NewTokens):
            first = first or time.perf_counter() - started
            ids += event.ids
    return first, time.perf_counter() - started, ids


if __name__ == "__main__":
    main()
