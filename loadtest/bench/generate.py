"""`make bench-generate`: Generate through the service against the step graph in a bare loop.

One caller asks for all tokens of a sequence over gRPC, then SEQUENCES callers at once; the bare
loop runs the same steps of the same graph in this process, on one thread as the service does. They
run in turns, and each ratio is the median of the rounds' ratios.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from channeltok import Client, GenerateParams, NewTokens

from export.triton.generator_backend import GeneratorSession, gumbel
from loadtest.harness.bare_graph import REPOSITORY
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from service.core.generation import TEMPERATURE, TOP_K

WEIGHTS = Path("generator/weights/demo.safetensors")
REPORT = Path("build/bench-generate.json")
SEQUENCES = 4


def main() -> None:
    """Measure, print, and write build/bench-generate.json."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.generate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="sequences of each (%(default)s)")
    options = parser.parse_args()
    write_report(REPORT, measure(options.rounds))


def measure(rounds: int) -> dict[str, float]:
    """Export the demo's generator, measure and print; returns the figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(REPOSITORY, models)
        export = [sys.executable, "-m", "export", "generator", str(WEIGHTS), "--sequences", "2"]
        subprocess.run([*export, "--repository", str(models)], check=True)
        return _measure(models, rounds)


def _measure(models: Path, rounds: int) -> dict[str, float]:
    (graph,) = models.glob("*_generate/1/model.onnx")
    session = GeneratorSession(str(graph), threads=1)
    rows = []
    with running(model_repository=str(models)) as service, Client(service.grpc) as client:
        for seed in range(rounds + 1):
            bare, ids = _bare(session, seed)
            first, whole, served_ids = _served(client, seed)
            together, ids_together = _served_together(client, seed)
            if served_ids != ids or ids_together != ids:
                raise RuntimeError(f"seed {seed}: the service's tokens are not the graph's")
            if seed:  # the first turn warms up
                rate = SEQUENCES * whole / together
                rows.append((whole / bare, bare, whole, first, together, rate))
    ratio, bare, whole, first, together, rate = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    print(
        f"{session.channels} tokens, medians of {rounds}: bare {bare:.3f} s, served {whole:.3f} s, "
        f"{ratio:.2f} times as long; the first token after {first:.3f} s; {SEQUENCES} sequences at "
        f"once {together:.3f} s, {rate:.2f} times the tokens/s of one"
    )
    return {
        "generate_served_over_graph": ratio,
        "generate_graph_seconds": bare,
        "generate_served_seconds": whole,
        "generate_first_token_seconds": first,
        "generate_together_seconds": together,
        "generate_together_over_one": rate,
    }


def _bare(session: GeneratorSession, seed: int) -> tuple[float, list[int]]:
    """(seconds of all steps, the tokens)"""
    started = time.perf_counter()
    batch, ids = session.batch(1), []
    batch.begin(0, [-1], TEMPERATURE, min(TOP_K, session.values))
    for index in range(session.channels):
        batch.noise[0] = gumbel(seed, index, session.draws, session.values)
        batch.step(1)
        batch.newest[0] = batch.next[0]
        ids.append(int(batch.next[0]))
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


def _served_together(client: Client, seed: int) -> tuple[float, list[int]]:
    """(seconds of SEQUENCES sequences of different seeds, the tokens of the first)"""
    started = time.perf_counter()
    with ThreadPoolExecutor(SEQUENCES) as pool:
        results = list(
            pool.map(lambda number: _served(client, seed + 1000 * number), range(SEQUENCES))
        )
    return time.perf_counter() - started, results[0][2]


if __name__ == "__main__":
    main()
