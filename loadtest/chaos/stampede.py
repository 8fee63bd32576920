"""Many connections that call again at once: a pool is served, and refusing costs less than working.

Closed loops without a pause, whatever the answer was. 128 connections wait at default settings.
With a short queue most of their calls are refused, and they ignore Retry-After.
"""

import math
import statistics
from collections import defaultdict

from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import ENCODE, Generators, Grpc, Report, Rest, together

FEW, CONNECTIONS = 16, (64, 128)
REFUSED = ("429", "RESOURCE_EXHAUSTED")
SHORT_QUEUE = "0.1"  # seconds
ROUNDS = 2  # of all numbers of connections, so that a slow phase of the machine meets all of them


def stampede(short: bool) -> Rows:
    seconds, rounds = (2.0, 1) if short else (10.0, ROUNDS)
    with running() as service, Generators(2) as generators:
        encode = Rest(f"{service.rest}/v1/encode?k=32", "POST", IMAGES)
        reports, health = _rounds(generators, service, encode, (FEW, *CONNECTIONS), seconds, rounds)
        request = tuple(pb.EncodeRequest(image=image).SerializeToString() for image in IMAGES)
        over_grpc = generators.closed_loop(
            Grpc(service.grpc, ENCODE, request), CONNECTIONS[-1], seconds, 0.0
        ).result()
    yield from _rows("stampede", "default settings, REST", reports, 0.9)
    for name, report in {"REST": reports[CONNECTIONS[-1]], "gRPC": over_grpc}.items():
        refused = [code for code in report.codes.tolist() if code in REFUSED]
        label = f"{CONNECTIONS[-1]} callers over {name}: refused"
        yield Row(f"stampede_refused_{name.lower()}", label, len(refused), 0, note=tally(refused))
        others = [code for code in report.codes.tolist() if code not in (report.good, *REFUSED)]
        label = f"{CONNECTIONS[-1]} callers over {name}: neither answered nor refused"
        yield Row(f"stampede_others_{name.lower()}", label, len(others), 0, note=tally(others))
    label = "largest p99 of /livez meanwhile"
    yield Row("stampede_health_p99_seconds", label, health, 0.1, unit=" s")

    with running(max_queue_seconds=SHORT_QUEUE) as service, Generators(2) as generators:
        encode = Rest(f"{service.rest}/v1/encode?k=32", "POST", IMAGES)
        reports, health = _rounds(
            generators, service, encode, (FEW, *CONNECTIONS), max(2.0, seconds / 2), rounds
        )
    yield from _rows("stampede_short", f"max_queue_seconds {SHORT_QUEUE}, REST", reports, 0.8)
    label = f"max_queue_seconds {SHORT_QUEUE}: largest p99 of /livez meanwhile"
    yield Row("stampede_short_health_p99_seconds", label, health, 0.1, unit=" s")


def _rounds(
    generators: Generators,
    service: Service,
    encode: Rest,
    connections: tuple[int, ...],
    seconds: float,
    rounds: int,
) -> tuple[dict[int, Report], float]:
    """Reports by number of connections, and the largest p99 of /livez, in seconds."""
    reports: dict[int, list[Report]] = defaultdict(list)
    health = []
    generators.closed_loop(encode, FEW, 1.0).result()  # warm-up
    for _ in range(rounds):
        for count in connections:
            check = generators.open_loop(Rest(f"{service.rest}/livez"), 10, seconds)
            reports[count].append(generators.closed_loop(encode, count, seconds, 0.0).result())
            health.append(check.result())
    by_round = len(connections)
    p99 = statistics.median(
        max(report.latency(99) for report in health[start : start + by_round])
        for start in range(0, len(health), by_round)
    )
    return {count: together(pair) for count, pair in reports.items()}, p99


def _rows(name: str, what: str, reports: dict[int, Report], share: float) -> Rows:
    few = reports[FEW]
    label = f"{what}: {FEW} connections, answered"
    note = f"p99 {few.latency(99, few.good):.3g} s"
    yield Row(f"{name}_{FEW}_per_second", label, few.goodput, unit=" /s", note=note)
    for count in CONNECTIONS:
        report = reports[count]
        refused = sum(code in REFUSED for code in report.codes.tolist())
        note = f"{report.goodput:.4g} /s, p99 {report.latency(99, report.good):.3g} s"
        note += f"; refused: {refused}"
        label = f"{what}: {count} connections, share of that"
        value = report.goodput / few.goodput if few.goodput else math.nan
        yield Row(f"{name}_{count}_goodput", label, value, share, at_least=True, note=note)
