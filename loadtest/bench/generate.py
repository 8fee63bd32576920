"""`make bench-generate`: Generate through the service against the step graph in a bare loop.

The demo's GPT makes an image of no class, and CAR one of a prompt. One caller asks for all tokens
of a sequence over gRPC, then SEQUENCES callers at once; the bare loop runs the same steps of the
same graph in this process, on one thread for one sequence, and on as many as there are cores for
SEQUENCES, as the service does. They run in turns, and each ratio is the median of the rounds'
ratios.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from channeltok import Client, GenerateParams, NewTokens

from export.triton.generator_backend import NO_CLASS, GeneratorSession, TextCondition, gumbel
from loadtest.harness.bare_graph import CORES, REPOSITORY
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from service.core.generation import TEMPERATURE, TOP_K

GPT, CAR = Path("generator/weights/demo.safetensors"), Path("generator/weights/car")
CVQ = Path("tokenizer/weights/cvq.safetensors")  # decodes CAR's tokens
PROMPT = "a photo of motorbikes"
REPORT = Path("build/bench-generate.json")
SEQUENCES = 4


def main() -> None:
    """Measure, print, and write build/bench-generate.json."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.generate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="sequences of each (%(default)s)")
    options = parser.parse_args()
    write_report(REPORT, measure(options.rounds))


def measure(rounds: int) -> dict[str, float]:
    """Export both generators, measure and print; returns the figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(REPOSITORY, models)
        data = ["--data", "docs/images/*.jpg", "--photos", "2"]
        for kind, weights, options in (
            ("generator", GPT, ["--sequences", "2"]),
            ("tokenizer", CVQ, data),
            ("generator", CAR, ["--sequences", "2"]),
        ):
            export = [sys.executable, "-m", "export", kind, str(weights), *options]
            subprocess.run([*export, "--repository", str(models)], check=True)
        with running(model_repository=str(models)) as service, Client(service.grpc) as client:
            gpt, car = models / "demo_generate/1", models / "car_generate/1"
            params = GenerateParams(generator="demo")
            figures = _measure("generate", gpt, NO_CLASS, client, params, rounds)
            params = GenerateParams(generator="car", prompt=PROMPT)
            text = TextCondition(car / "tokenizer.json", "", len(PROMPT))
            prompt = text.start(np.frombuffer(PROMPT.encode(), np.uint8))
            return figures | _measure("generate_car", car, prompt, client, params, rounds)


def _measure(
    name: str,
    model: Path,
    prompt: list[int],
    client: Client,
    params: GenerateParams,
    rounds: int,
) -> dict[str, float]:
    """Figures of one generator. model: folder of its graph. prompt, params: say the same."""
    rows = []
    session = GeneratorSession(str(model / "model.onnx"), threads=1)
    for seed in range(rounds + 1):
        bare, ids = _bare(session, prompt, [seed])
        bare_together = _bare_together(session, prompt, seed)
        first, whole, served_ids = _served(client, params, seed)
        together, ids_together = _served_together(client, params, seed)
        if served_ids != ids or ids_together != ids:
            raise RuntimeError(f"{name}, seed {seed}: the service's tokens are not the graph's")
        if seed:  # the first turn warms up
            rate, bare_rate = SEQUENCES * whole / together, SEQUENCES * bare / bare_together
            rows.append((whole / bare, bare, whole, first, together, rate, bare_rate))
    ratio, bare, whole, first, together, rate, bare_rate = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    print(
        f"{name}: {session.channels} tokens, medians of {rounds}: bare {bare:.3f} s, "
        f"served {whole:.3f} s, {ratio:.2f} times as long; the first token after {first:.3f} s; "
        f"{SEQUENCES} sequences at once {together:.3f} s, {rate:.2f} times the tokens/s of one, "
        f"bare {bare_rate:.2f} times"
    )
    return {
        f"{name}_served_over_graph": ratio,
        f"{name}_graph_seconds": bare,
        f"{name}_served_seconds": whole,
        f"{name}_first_token_seconds": first,
        f"{name}_together_seconds": together,
        f"{name}_together_over_one": rate,
        f"{name}_graph_together_over_one": bare_rate,
    }


def _bare(
    session: GeneratorSession, prompt: list[int], seeds: list[int]
) -> tuple[float, list[int]]:
    """(seconds of all steps of sequences that share them, the tokens of the first)"""
    started = time.perf_counter()
    rows = range(len(seeds))
    batch, ids = session.batch(len(seeds)), []
    for row in rows:
        batch.begin(row, prompt, TEMPERATURE, min(TOP_K, session.values))
    for index in range(session.channels):
        for row, seed in zip(rows, seeds, strict=True):
            batch.noise[row] = gumbel(seed, index, session.draws, session.values)
        batch.step(len(seeds))
        batch.newest[:, 0] = batch.next
        ids.append(int(batch.next[0]))
    return time.perf_counter() - started, ids


def _bare_together(session: GeneratorSession, prompt: list[int], seed: int) -> float:
    """Seconds of SEQUENCES sequences, divided among as many threads as there are cores."""
    seeds = np.array_split(seed + 1000 * np.arange(SEQUENCES), min(CORES, SEQUENCES))
    started = time.perf_counter()
    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(lambda few: _bare(session, prompt, few.tolist()), seeds))
    return time.perf_counter() - started


def _served(client: Client, params: GenerateParams, seed: int) -> tuple[float, float, list[int]]:
    """(seconds to the first token, and to the end; the tokens)"""
    ids: list[int] = []
    first = 0.0
    started = time.perf_counter()
    for event in client.generate(replace(params, seed=seed)):
        if isinstance(event, NewTokens):
            first = first or time.perf_counter() - started
            ids += event.ids
    return first, time.perf_counter() - started, ids


def _served_together(client: Client, params: GenerateParams, seed: int) -> tuple[float, list[int]]:
    """(seconds of SEQUENCES sequences of different seeds, the tokens of the first)"""
    started = time.perf_counter()
    with ThreadPoolExecutor(SEQUENCES) as pool:
        results = list(
            pool.map(lambda number: _served(client, params, seed + 1000 * number), range(SEQUENCES))
        )
    return time.perf_counter() - started, results[0][2]


if __name__ == "__main__":
    main()
