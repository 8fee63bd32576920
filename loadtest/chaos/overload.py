"""Open-loop load above capacity: goodput must stay, and the rest be refused at once.

Service and generator share the cores, and a refusal costs both of them time. So the engine gets one
core, and a model slow enough that ten times its capacity can be sent and refused with what is left
(models.wide_repository).
"""

import statistics
import time
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass

from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.chaos import models
from loadtest.chaos.attack import CoreShare, Row, Rows, tally
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import running
from loadtest.load.open_loop import ENCODE, HEALTH, Generators, Grpc, Report, Rest, together

K = 64
REFUSED, REFUSED_SECONDS = "RESOURCE_EXHAUSTED", 0.05
SETTINGS = {"engine_instances": "1", "max_in_flight": "1", "probe_seconds": "5"}
# max_queue_seconds, in image times: with one image in work and one waiting, latency stays within
# three times the calm p99; with two waiting it does not. In the middle between one and two, so that
# the service's own moving average of the image time may err.
WAITING = 1.5


@dataclass(frozen=True)
class _Level:
    """Result of one load level. share: of the cores that the hypervisor gave meanwhile."""

    report: Report
    share: float


def open_loop(short: bool) -> Rows:
    """Capacity, 0.7 of it, then 1, 2, 5 and 10 times as much. Meanwhile health is checked 10 times
    a second on both protocols.

    short: with the demo tokenizer, of which the cores can send at most five times the capacity.
    """
    levels, seconds = ((1, 5), 4.0) if short else ((1, 2, 5, 10), 14.0)
    settings = {"engine_instances": "1", "max_queue_seconds": "0.1"}
    bodies = tuple(pb.EncodeRequest(image=image, k=K).SerializeToString() for image in IMAGES)
    if not short:
        settings = {"model_repository": str(models.wide_repository()), **SETTINGS}
        # The time per image depends on the machine.
        with running(**settings) as service, Generators(1) as generators:
            target = Grpc(service.grpc, ENCODE, bodies)
            alone = generators.closed_loop(target, 1, seconds / 4).result()
        settings["max_queue_seconds"] = str(WAITING * alone.latency(50, "OK"))
    with running(**settings) as service, Generators(3) as generators:
        encode = Grpc(service.grpc, ENCODE, bodies)
        health: dict[str, dict[float, list[Future[Report]]]] = {
            protocol: defaultdict(list) for protocol in ("gRPC", "REST")
        }

        def level(rate: float, seconds: float) -> _Level:
            checks = {
                "gRPC": generators.open_loop(Grpc(service.grpc, HEALTH, (b"",)), 10, seconds),
                "REST": generators.open_loop(Rest(f"{service.rest}/readyz"), 10, seconds),
            }
            cores = CoreShare()
            report = generators.open_loop(encode, rate, seconds).result()
            share = cores.share()
            for protocol, check in checks.items():
                check.result()
                health[protocol][rate].append(check)
            time.sleep(0.5)
            return _Level(report, share)

        # A closed loop gives a rough capacity; a load well above that gives the exact one.
        closed = generators.closed_loop(encode, 2, seconds / 5).result().goodput
        capacity = _goodput([level(3 * closed, seconds)])
        label = f"capacity: Encode, k = {K}, one engine on one core"
        yield Row("capacity_per_second", label, capacity, unit=" /s")
        easy = level(0.7 * capacity, seconds).report
        calm, note = easy.latency(99, "OK"), _codes(easy)
        yield Row("overload_0.7x_p99_seconds", "p99 at 0.7 x capacity", calm, unit=" s", note=note)
        # Two rounds over all levels, so that a slow phase of the machine affects all of them.
        rounds = [
            {factor: level(factor * capacity, seconds / 2) for factor in levels} for _ in range(2)
        ]
    by_factor = {factor: [row[factor] for row in rounds] for factor in levels}
    goodput = {factor: _goodput(pair) for factor, pair in by_factor.items()}
    # The median of all levels above capacity: the largest of noisy figures would not be the peak.
    peak = statistics.median([capacity, *(goodput[factor] for factor in levels if factor > 1)])
    reports = {
        factor: together([level.report for level in pair]) for factor, pair in by_factor.items()
    }
    for factor, report in reports.items():
        name, at = f"overload_{factor}x", f"at {factor} x capacity"
        share = statistics.mean(level.share for level in by_factor[factor])
        note = f"{_codes(report)}; {share:.0%} of the cores were ours"
        # If capacity was measured in a slow phase, 1 x is below the peak, and so is its goodput.
        kept = goodput[factor] / min(factor * capacity, peak)
        label = f"{at}: goodput, share of the peak or of the offered load"
        yield Row(f"{name}_goodput", label, kept, 0.95, at_least=True, note=note)
        p99, refused_p99 = report.latency(99, "OK"), report.latency(99, REFUSED)
        yield Row(f"{name}_p99_seconds", f"{at}: p99 of accepted", p99, 3 * calm, unit=" s")
        label = f"{at}: p99 of refused"
        yield Row(f"{name}_refused_p99_seconds", label, refused_p99, REFUSED_SECONDS, unit=" s")
        others = [code for code in report.codes.tolist() if code not in ("OK", REFUSED)]
        label = f"{at}: neither answered nor refused"
        yield Row(f"{name}_other_answers", label, len(others), 0, note=tally(others))
    for protocol, by_rate in health.items():
        results = [together([check.result() for check in checks]) for checks in by_rate.values()]
        p99 = max(report.latency(99) for report in results)
        failures = [code for row in results for code in row.codes.tolist() if code != row.good]
        key = f"overload_health_{protocol.lower()}"
        label = f"health over {protocol}: largest p99 of all levels"
        yield Row(f"{key}_p99_seconds", label, p99, 0.1, unit=" s")
        label = f"health over {protocol}: failures"
        yield Row(f"{key}_failures", label, len(failures), 0, note=tally(failures))
    late = max(report.late_p99 for report in reports.values())
    label = "lateness of the load generator, largest p99"
    yield Row("overload_generator_late_p99_seconds", label, late, REFUSED_SECONDS, unit=" s")


def _goodput(levels: list[_Level]) -> float:
    """Successful calls per second of core time that the hypervisor gave: with a tenth of the core
    stolen, only nine tenths of the capacity are possible."""
    share = statistics.mean(level.share for level in levels)
    return together([level.report for level in levels]).goodput / share


def _codes(report: Report) -> str:
    return ", ".join(f"{count} {code}" for code, count in report.counts().items())
