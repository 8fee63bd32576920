"""`make bench-serving`: every figure of what serving costs, in one run, into build/bench-serving.json.

Served against the bare graph, for the demo and for decode of the full size; what the gateway adds to Triton for one caller, and how much of
what Triton carries it carries where the model costs nothing; and the peers.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from channeltok import Client, Tokens

from loadtest.bench import gateway_overhead, throughput
from loadtest.bench.throughput import CLIENTS, PLAIN_LOOP, Bare
from loadtest.harness.service_process import running
from loadtest.load.open_loop import Generators
from loadtest.peers.__main__ import compare

FULL = Path("build/serve-full")
FULL_CALLS = 2  # of each caller: with batches of four on two instances they end together
FULL_SECONDS = 60.0
PATIENCE = "600"  # seconds: 16 images take 40
REPORT = Path("build/bench-serving.json")


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.serving", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of peers and of what the gateway adds; %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of each of their stretches; %(default)s"
    )
    options = parser.parse_args()
    figures: dict[str, object] = dict(throughput.measure())
    figures |= _full_decode()
    with Generators(1) as generators:
        figures |= _gateway(generators, options.rounds, options.seconds)
    figures |= compare(options.rounds, options.seconds)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {REPORT}")


def _full_decode() -> dict[str, object]:
    """The full size with random weights: 16 callers, two images each, between two stretches of the plain loop."""
    (graph,) = FULL.glob("*_decode_k512/1/model.onnx")
    bare = Bare("decode", graph, np.random.default_rng(0).integers(0, 2**16, (1, 512), np.int32))
    before, _ = bare.throughput(PLAIN_LOOP, FULL_SECONDS)
    with (
        running(
            model_repository=str(FULL), request_timeout_seconds=PATIENCE, max_queue_seconds=PATIENCE
        ) as service,
        Client(service.grpc, timeout=float(PATIENCE)) as client,
        ThreadPoolExecutor(CLIENTS) as callers,
    ):
        tokens = Tokens(np.arange(512, dtype=np.uint16), client.tokenizers()[0].fingerprint)
        started = time.perf_counter()
        for _ in callers.map(lambda _: client.decode(tokens, "jpeg"), range(FULL_CALLS * CLIENTS)):
            pass
        served = FULL_CALLS * CLIENTS / (time.perf_counter() - started)
    after, _ = bare.throughput(PLAIN_LOOP, FULL_SECONDS)
    plain = (before + after) / 2
    ratio = served / plain
    engine = " ".join(bare.engine)
    print(
        f"\nfull decode, {engine}: served {served:.3f} images/s, bare {before:.3f} before and {after:.3f} after: {ratio:.3f}"
    )
    return {
        "full_decode_served_over_bare": ratio,
        "full_decode_served_per_second": served,
        "full_decode_bare_per_second": plain,
    }


def _gateway(generators: Generators, rounds: int, seconds: float) -> dict[str, object]:
    figures: dict[str, object] = {}
    print("\none caller, ms: Triton alone, with the gateway, added")
    for role, seen in gateway_overhead.latency(generators, rounds, seconds).items():
        for name, alone, through in (
            ("p50", seen.triton_p50, seen.p50),
            ("p99", seen.triton_p99, seen.p99),
        ):
            figures[f"{role}_gateway_added_{name}_ms"] = 1000 * (through - alone)
            print(
                f"  {role} {name} {1000 * alone:7.2f} {1000 * through:7.2f} {1000 * (through - alone):7.2f}"
            )
    figures["gateway_added_p50_ms"] = max(
        float(str(figures[f"{role}_gateway_added_p50_ms"])) for role in gateway_overhead.ROLES
    )
    print(
        "\na model that computes nothing, images per second of core time: Triton alone, with the gateway, ratio"
    )
    for role, carried in gateway_overhead.identity(generators, rounds, seconds).items():
        figures[f"{role}_identity_over_triton_per_core"] = ratio = (
            carried.per_core / carried.triton_per_core
        )
        print(f"  {role} {carried.triton_per_core:9.0f} {carried.per_core:9.0f} {ratio:7.2f}")
    return figures


if __name__ == "__main__":
    main()
