"""`python -m export.bench.generator GRAPH`: tokens with a cache against tokens without one, the same graph and runtime, in one run.

Expected before it was measured, for the demo's shape: a step with a cache reads 21 MB of weights, about 1.5 ms; without one it computes 128
positions on average, 1.4 GFLOP, about 23 ms at 60 GFLOP/s. So 15 times, and 10 is asked.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np

from export.figures import write_figures
from export.triton.generator_backend import GeneratorSession

LENGTHS = (32, 64, 128, 256)
REPORT = Path("build/bench-generator.json")


def measure(graph: bytes, rounds: int = 3) -> dict[str, float]:
    """Seconds for the first 32, 64, 128 and 256 tokens of a sequence by a serialised step graph, medians over `rounds` in turns.

    graph: as export.graphs.generator_graph writes it, of 256 channels or more. Without a cache each step computes the whole sequence so far. Either way has
    the better of one thread and of one for each core.
    Raises RuntimeError when the two ways disagree about a token.
    """
    engines = {
        threads: GeneratorSession(graph, threads) for threads in sorted({1, os.cpu_count() or 1})
    }
    times: dict[tuple[int, bool], list[list[float]]] = {}
    for turn in range(rounds + 1):
        made = []
        for threads, steps in engines.items():
            for cached in (True, False):
                tokens, seconds = _sequence(steps, cached, max(LENGTHS) if turn else 8)
                made.append(tokens)
                if turn:  # the first turn warms up
                    times.setdefault((threads, cached), []).append(seconds)
        if made.count(made[0]) != len(made):
            raise RuntimeError("with and without a cache the tokens differ")
    figures: dict[str, float] = {}
    for cached, way in ((True, "cached"), (False, "uncached")):
        for length in LENGTHS:
            medians = {
                threads: statistics.median(
                    seconds[length - 1] for seconds in times[threads, cached]
                )
                for threads in engines
            }
            figures[f"generate_{way}_{length}_seconds"] = min(medians.values())
            figures[f"generate_{way}_{length}_threads"] = min(
                medians, key=lambda threads: medians[threads]
            )
    for length in LENGTHS:
        ratio = (
            figures[f"generate_uncached_{length}_seconds"]
            / figures[f"generate_cached_{length}_seconds"]
        )
        figures[f"generate_cached_over_uncached_{length}"] = ratio
    return figures


def table(figures: dict[str, float]) -> str:
    """What `measure` found, for people."""
    rows = [f"{'tokens':>6}{'cached':>12}{'uncached':>12}{'times':>8}"]
    for length in LENGTHS:
        cached, uncached = (
            f"{1000 * figures[f'generate_{way}_{length}_seconds']:.0f} ms"
            for way in ("cached", "uncached")
        )
        rows.append(
            f"{length:>6}{cached:>12}{uncached:>12}{figures[f'generate_cached_over_uncached_{length}']:>8.1f}"
        )
    return "\n".join(rows)


def _sequence(steps: GeneratorSession, cached: bool, length: int) -> tuple[list[int], list[float]]:
    """The most likely tokens of no class, and after each of them the seconds since the start."""
    noise = np.zeros((1, steps.draws, steps.values), np.float32)
    generation, tokens, seconds, started = (
        steps.begin(-1, temperature=0.0, top_k=0),
        [-1],
        [],
        time.perf_counter(),
    )
    for _ in range(length):
        if not cached:
            generation.length = 0
        tokens.append(generation.step(tokens[generation.length :], noise)[0])
        seconds.append(time.perf_counter() - started)
    return tokens[1:], seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.bench.generator", description=__doc__)
    parser.add_argument("graph", type=Path, help="model.onnx of a generator, in a model repository")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.graph.read_bytes(), options.rounds)
    write_figures(REPORT, figures)
    print(table(figures))


if __name__ == "__main__":
    main()
