"""`python -m export.bench.generator GRAPH`: generation with and without a KV cache, in one run.

Estimate for the demo's shape, made before measuring: a step with a cache reads 21 MB of weights,
about 1.5 ms; without one it computes 128 positions on average, 1.4 GFLOP, about 23 ms at
60 GFLOP/s. That is 15 times; at least 10 is required.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

from export.figures import write_figures
from export.triton.generator_backend import GeneratorSession

LENGTHS = (32, 64, 128, 256)
REPORT = Path("build/bench-generator.json")


def measure(graph: bytes, rounds: int = 3) -> dict[str, float]:
    """Median seconds of the first 32, 64, 128 and 256 tokens of a sequence, over `rounds`.

    graph: serialised step graph of 256 channels or more. Without a cache each step computes the
    whole sequence so far. Both ways use the better of one thread and one per core.
    Raises RuntimeError when a token differs between the two ways.
    """
    sessions = {
        threads: GeneratorSession(graph, threads) for threads in sorted({1, os.cpu_count() or 1})
    }
    times: dict[tuple[int, bool], list[list[float]]] = {}
    for turn in range(rounds + 1):
        sequences = []
        for threads, session in sessions.items():
            for cached in (True, False):
                tokens, seconds = _sample(session, cached, max(LENGTHS) if turn else 8)
                sequences.append(tokens)
                if turn:  # the first turn warms up
                    times.setdefault((threads, cached), []).append(seconds)
        if sequences.count(sequences[0]) != len(sequences):
            raise RuntimeError("tokens with and without a cache differ")
    figures: dict[str, float] = {}
    for cached, way in ((True, "cached"), (False, "uncached")):
        for length in LENGTHS:
            medians = {
                threads: statistics.median(
                    seconds[length - 1] for seconds in times[threads, cached]
                )
                for threads in sessions
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
    """The figures of `measure` as text."""
    rows = [f"{'tokens':>6}{'cached':>12}{'uncached':>12}{'times':>8}"]
    for length in LENGTHS:
        cached, uncached = (
            f"{1000 * figures[f'generate_{way}_{length}_seconds']:.0f} ms"
            for way in ("cached", "uncached")
        )
        rows.append(
            f"{length:>6}{cached:>12}{uncached:>12}"
            f"{figures[f'generate_cached_over_uncached_{length}']:>8.1f}"
        )
    return "\n".join(rows)


def _sample(session: GeneratorSession, cached: bool, length: int) -> tuple[list[int], list[float]]:
    """Greedy tokens without a class, and the seconds from the start to each of them."""
    batch = session.batch(1)
    batch.begin(0, [-1], temperature=0.0, top_k=0)
    tokens, seconds = [-1], []
    started = time.perf_counter()
    for _ in range(length):
        if cached:
            batch.step(1)
        else:
            batch.begin(0, [-1], temperature=0.0, top_k=0)
            batch.append(0, tokens)
        batch.newest[0] = batch.next[0]
        tokens.append(int(batch.next[0]))
        seconds.append(time.perf_counter() - started)
    return tokens[1:], seconds


def main() -> None:
    """Measure, write build/bench-generator.json and print a table."""
    parser = argparse.ArgumentParser(prog="python -m export.bench.generator", description=__doc__)
    parser.add_argument("graph", type=Path, help="model.onnx of a generator, in a model repository")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.graph.read_bytes(), options.rounds)
    write_figures(REPORT, figures)
    print(table(figures))


if __name__ == "__main__":
    main()
