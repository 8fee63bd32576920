"""`make bench-serving`: all serving benchmarks in one run, written to build/bench-serving.json.

Served against bare graph, for the demo and for decode of the full size; what the gateway adds to
Triton's latency and core time; the service beside an older commit's; quality targets; Generate; and
the comparison with other serving frameworks (loadtest/peers).
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from channeltok import Client, Tokens

from loadtest.bench import against_commit, gateway_overhead, generate, quality, throughput
from loadtest.bench.throughput import CLIENTS
from loadtest.harness.bare_graph import CORES, Arrangement, BareGraph
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from loadtest.load.open_loop import Generators
from loadtest.peers.__main__ import compare

FULL = Path("build/serve-full")
FULL_SECONDS = 60.0
FULL_TIMEOUT = "600"  # seconds: 16 images take 40
REPORT = Path("build/bench-serving.json")


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.serving", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds for peers and gateway (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of each of their runs (%(default)s)"
    )
    options = parser.parse_args()
    figures: dict[str, object] = dict(throughput.measure())
    figures |= _full_decode()
    with Generators(1) as generators:
        figures |= _gateway(generators, options.rounds, options.seconds)
        figures |= against_commit.measure(generators, options.rounds, options.seconds)
    figures |= quality.measure(options.rounds)
    figures |= generate.measure(options.rounds)
    figures |= compare(options.rounds, options.seconds)
    write_report(REPORT, figures)


def _full_decode() -> dict[str, object]:
    """Decode of the full size with random weights: 16 clients, between two runs of the bare graph,
    whose fastest arrangement is one image after another. All three take about as long."""
    (graph,) = FULL.glob("*_decode_k512/1/model.onnx")
    ids = np.random.default_rng(0).integers(0, 2**16, (1, 512), np.int32)
    bare = BareGraph(graph, ids)
    arrangement = Arrangement(sessions=1, threads=CORES, batch=1)
    before, _ = bare.throughput(arrangement, FULL_SECONDS)
    # As many for each client, and an even number: all of them end together on two instances.
    images = CLIENTS * max(2, round(before * FULL_SECONDS / CLIENTS))
    timeouts = {"request_timeout_seconds": FULL_TIMEOUT, "max_queue_seconds": FULL_TIMEOUT}
    with (
        running(model_repository=str(FULL), **timeouts) as service,
        Client(service.grpc, timeout=float(FULL_TIMEOUT)) as client,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        tokens = Tokens(np.arange(512, dtype=np.uint16), client.tokenizers()[0].fingerprint)
        started = time.perf_counter()
        for _ in clients.map(lambda _: client.decode(tokens, "jpeg"), range(images)):
            pass
        served = images / (time.perf_counter() - started)
    after, _ = bare.throughput(arrangement, FULL_SECONDS)
    alone = (before + after) / 2
    print(
        f"\nfull decode, {' '.join(bare.engine)}: served {served:.3f} images/s, "
        f"bare {before:.3f} before and {after:.3f} after: {served / alone:.3f}"
    )
    return {
        "full_decode_served_over_bare": served / alone,
        "full_decode_served_per_second": served,
        "full_decode_bare_per_second": alone,
    }


def _gateway(generators: Generators, rounds: int, seconds: float) -> dict[str, object]:
    figures: dict[str, object] = {}
    added_p50 = []
    print("\nsingle client, ms: Triton alone, through the gateway, added")
    for role, row in gateway_overhead.latency(generators, rounds, seconds).items():
        for name, alone, through in (
            ("p50", row.triton_p50, row.p50),
            ("p99", row.triton_p99, row.p99),
        ):
            added = 1000 * (through - alone)
            figures[f"{role}_triton_{name}_ms"] = 1000 * alone
            figures[f"{role}_gateway_added_{name}_ms"] = added
            print(f"  {role} {name} {1000 * alone:7.2f} {1000 * through:7.2f} {added:7.2f}")
        added_p50.append(1000 * (row.p50 - row.triton_p50))
    figures["gateway_added_p50_ms"] = max(added_p50)
    print(
        "\nidentity model, images per second of core time: Triton alone, through the gateway, ratio"
    )
    for role, cell in gateway_overhead.identity(generators, rounds, seconds).items():
        ratio = cell.per_core / cell.triton_per_core
        figures[f"{role}_identity_per_core"] = cell.per_core
        figures[f"{role}_identity_triton_per_core"] = cell.triton_per_core
        figures[f"{role}_identity_over_triton_per_core"] = ratio
        print(f"  {role} {cell.triton_per_core:9.0f} {cell.per_core:9.0f} {ratio:7.2f}")
    return figures


if __name__ == "__main__":
    main()
