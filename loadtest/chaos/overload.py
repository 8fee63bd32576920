"""More than the service can do, at a constant rate: it must go on doing what it can, and refuse the rest at once.

Service and generator share the cores, and a refusal costs both of them something. So the engine gets one core, and a model that is slow
enough for ten times its capacity to be sent and refused on what is left (models.wide_repository).
"""

import statistics
import time
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass

from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.chaos import models
from loadtest.chaos.attack import Given, Row, Rows, counted
from loadtest.chaos.callers import PHOTOS
from loadtest.harness.service_process import running
from loadtest.load.open_loop import ENCODE, HEALTH, Generators, Grpc, Report, Rest, together

K = 64
REFUSED, REFUSED_SECONDS = "RESOURCE_EXHAUSTED", 0.05
SETTINGS = {"engine_instances": "1", "max_in_flight": "1", "probe_seconds": "5"}
# Images' times that a caller may have to wait: one in work and one who waits are within three times the calm p99, two who wait are not.
WAITING = 1.9


@dataclass(frozen=True)
class _Level:
    """share: of the cores, that the machine gave meanwhile."""

    report: Report
    share: float


def open_loop(short: bool) -> Rows:
    """Capacity, then 0.7 of it, then 1, 2, 5 and 10 times as much. Health is asked 10 times a second on both protocols, all the while.

    short: the demo tokenizer, which says nothing of how fast: its five times capacity is all that the cores can send.
    """
    levels, seconds = ((1, 5), 4.0) if short else ((1, 2, 5, 10), 20.0)
    settings = {"engine_instances": "1"}
    bodies = tuple(pb.EncodeRequest(image=photo, k=K).SerializeToString() for photo in PHOTOS)
    if not short:
        settings = {"model_repository": str(models.wide_repository()), **SETTINGS}
        with (
            running(**settings) as service,
            Generators(1) as generators,
        ):  # how long an image takes is the machine's to say
            alone = generators.closed_loop(
                Grpc(service.grpc, ENCODE, bodies), 1, seconds / 4
            ).result()
        settings["max_queue_seconds"] = str(WAITING * alone.latency(50, "OK"))
    with running(**settings) as service, Generators(3) as generators:
        encode = Grpc(service.grpc, ENCODE, bodies)
        health: dict[tuple[str, float], list[Future[Report]]] = defaultdict(list)

        def level(rate: float, seconds: float) -> _Level:
            legs = {
                "gRPC": generators.open_loop(Grpc(service.grpc, HEALTH, (b"",)), 10, seconds),
                "REST": generators.open_loop(Rest(f"{service.rest}/readyz"), 10, seconds),
            }
            given = Given()
            report = generators.open_loop(encode, rate, seconds).result()
            share = given.share()
            for protocol, leg in legs.items():
                leg.result()
                health[protocol, rate].append(leg)
            time.sleep(0.5)
            return _Level(report, share)

        # A closed loop says about how much it carries; a load well above that says how much exactly.
        closed = generators.closed_loop(encode, 2, seconds / 5).result().goodput
        capacity = _goodput([level(3 * closed, seconds)])
        yield Row(
            "capacity_per_second",
            f"capacity: Encode of photos, k = {K}, one engine on one core",
            capacity,
            unit=" /s",
        )
        easy = level(0.7 * capacity, seconds).report
        calm = easy.latency(99, "OK")
        yield Row(
            "overload_0.7x_p99_seconds", "p99 at 0.7 x capacity", calm, unit=" s", note=_codes(easy)
        )
        # Two rounds through all levels: where the machine itself gets slower for a while, it does so for all of them.
        rounds = [
            {times: level(times * capacity, seconds / 2) for times in levels} for _ in range(2)
        ]
    by_level = {times: [one[times] for one in rounds] for times in levels}
    goodput = {times: _goodput(one) for times, one in by_level.items()}
    # The median of all that is more than it carries: the largest of several noisy figures would be the luckiest, not the peak.
    peak = statistics.median([capacity, *(goodput[times] for times in levels if times > 1)])
    reports = {times: together([level.report for level in one]) for times, one in by_level.items()}
    for times, report in reports.items():
        name, at = f"overload_{times}x", f"at {times} x capacity"
        note = f"{_codes(report)}; {statistics.mean(level.share for level in by_level[times]):.0%} of the cores were ours"
        # Where capacity was measured in a slow moment, what was sent at 1 x is less than the peak, and no more can be answered.
        carried = goodput[times] / min(times * capacity, peak)
        yield Row(
            f"{name}_goodput",
            f"{at}: goodput, share of the peak or of what was sent",
            carried,
            0.95,
            at_least=True,
            note=note,
        )
        yield Row(
            f"{name}_p99_seconds",
            f"{at}: p99 of accepted",
            report.latency(99, "OK"),
            3 * calm,
            unit=" s",
        )
        yield Row(
            f"{name}_refused_p99_seconds",
            f"{at}: p99 of refused",
            report.latency(99, REFUSED),
            REFUSED_SECONDS,
            unit=" s",
        )
        others = [code for code in report.codes.tolist() if code not in ("OK", REFUSED)]
        yield Row(
            f"{name}_other_answers",
            f"{at}: neither answered nor refused",
            len(others),
            0,
            note=counted(others),
        )
    for protocol in ("gRPC", "REST"):
        answered = [
            together([leg.result() for leg in legs])
            for (asked, _), legs in health.items()
            if asked == protocol
        ]
        p99 = max(leg.latency(99) for leg in answered)
        failures = [code for leg in answered for code in leg.codes.tolist() if code != leg.good]
        yield Row(
            f"overload_health_{protocol.lower()}_p99_seconds",
            f"health over {protocol}: largest p99 of all levels",
            p99,
            0.1,
            unit=" s",
        )
        yield Row(
            f"overload_health_{protocol.lower()}_failures",
            f"health over {protocol}: failures",
            len(failures),
            0,
            note=counted(failures),
        )
    late = max(report.late_p99 for report in reports.values())
    yield Row(
        "overload_generator_late_p99_seconds",
        "the generator's own lateness, largest p99",
        late,
        REFUSED_SECONDS,
        unit=" s",
    )


def _goodput(levels: list[_Level]) -> float:
    """Per second of what the machine gave: while another tenant has a tenth of the engine's core, nine tenths are all there is."""
    return together([level.report for level in levels]).goodput / statistics.mean(
        level.share for level in levels
    )


def _codes(report: Report) -> str:
    return ", ".join(f"{count} {code}" for code, count in report.counts().items())
