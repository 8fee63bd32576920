"""Files that are costly to decode, one by one and then 50 a second: none takes much longer than a
plain image of as many pixels, and small images are served meanwhile."""

import math
import statistics
import subprocess
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc
import psutil
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub
from PIL import Image

import imaging
from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import expected_answers
from loadtest.chaos.image_bombs import IMAGE_BOMBS
from loadtest.harness.images import CROPPED, camera_jpeg, camera_photos, encoded
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import ENCODE, Generators, Grpc, Mixed, Report, Rest
from service.settings import Settings

RATE = 50.0  # bombs per second
# Larger files at this rate are a flood of bytes (190 MB/s), whatever is in them.
MOST_BYTES = 2 * 2**20
SLOWER = 3.0  # allowed times the duration of a plain image
OK = "200"
REFUSALS = ("400", "413", "415", "422", "429", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
SMALL, PHOTO = "256 x 256", "1024 x 768"  # what honest clients send
HONEST = {SMALL: (20.0, camera_photos(256, 256)), PHOTO: (5.0, camera_photos(1024, 768))}


@dataclass
class Alone:
    """How long bombs took while nothing else ran.

    times: of each bomb that was decoded, over a plain image of its format and number of pixels.
    refusals: seconds until each other bomb was refused. others: answers of another kind.
    """

    times: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, float] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def bomb_flood(short: bool) -> Rows:
    """Short: a flood of seconds, and each bomb once by itself."""
    bombs = {name: build() for name, build in IMAGE_BOMBS.items()}
    small = [bomb for bomb in bombs.values() if len(bomb) <= MOST_BYTES]
    seconds, calm_seconds, repeats = (4, 2, 1) if short else (15, 5, 3)
    with running() as service, Generators(2 + len(HONEST)) as generators:
        expected, processes = expected_answers(service), len(service.children())
        alone = _alone(service, bombs, repeats)
        calm = _honest_calls(generators, service, calm_seconds)
        flood = _flood(generators, service, small, seconds)
        meanwhile = _honest_calls(generators, service, seconds)
        answers = flood.result()
        flood = _flood(generators, service, list(bombs.values()), calm_seconds)
        of_bytes = _honest_calls(generators, service, calm_seconds)
        flood.result()
        changed = sum(answer != expected[key] for key, answer in expected_answers(service).items())
        after = _honest_calls(generators, service, calm_seconds)
        ended = processes - len(service.children())
        replaced = service.events("restarting") + service.events("reloading")
        crashes = [line for line in service.log if "internal_error" in line or "Traceback" in line]
        flood = _flood(generators, service, small, 2 * calm_seconds)
        time.sleep(calm_seconds)
        exit_seconds, exit_code, left_behind = _stop(service)
        flood.result()
    label = f"bombs alone that were neither answered nor refused, of {len(bombs)}"
    yield Row("bomb_flood_alone_others", label, len(alone.others), 0, note=tally(alone.others))
    slowest = max(alone.times, key=alone.times.__getitem__, default="")
    label = "longest over a plain image of its format and as many pixels"
    ratio = alone.times.get(slowest, math.nan)
    yield Row("bomb_flood_over_plain_ratio", label, ratio, SLOWER, unit=" times", note=slowest)
    slowest = max(alone.refusals, key=alone.refusals.__getitem__, default="")
    label = "longest until a bomb was refused"
    refusal = alone.refusals.get(slowest, math.nan)
    yield Row("bomb_flood_refusal_seconds", label, refusal, unit=" s", note=slowest)
    label = f"{RATE:g} bombs/s: neither answered nor refused"
    counts = ", ".join(f"{count} {code}" for code, count in answers.counts().items())
    others = [code for code in answers.codes.tolist() if code not in (OK, *REFUSALS)]
    yield Row("bomb_flood_others", label, len(others), 0, note=counts)
    for kind, report in meanwhile.items():
        name = f"bomb_flood_{kind.replace(' ', '').lower().strip('/')}"
        failed = [code for code in report.codes.tolist() if code != report.good]
        note = f"{calm[kind].latency(99):.3g} s before, {after[kind].latency(99):.3g} s after"
        limit = {SMALL: 0.25, PHOTO: None}.get(kind, 0.1)
        label = f"{kind} meanwhile: p99"
        yield Row(f"{name}_p99_seconds", label, report.latency(99), limit, unit=" s", note=note)
        label = f"{kind} meanwhile: failed"
        note = f"of {len(report.codes)}: {tally(failed)}" if failed else f"of {len(report.codes)}"
        yield Row(f"{name}_failed", label, len(failed), 0, note=note)
    p99 = of_bytes[SMALL].latency(99)
    size = statistics.mean(map(len, bombs.values())) * RATE / 1e6
    label = f"the same with larger bombs as well, {size:.0f} MB/s"
    yield Row("bomb_flood_of_bytes_p99_seconds", label, p99, unit=" s")
    yield Row("bomb_flood_changed", "answers that differ afterwards", changed, 0)
    yield Row("bomb_flood_processes", "processes that ended and were not replaced", ended, 0)
    yield Row("bomb_flood_replaced", "tritonservers and engines replaced", len(replaced), 0)
    yield Row("bomb_flood_crashes", "exceptions in the log", len(crashes), 0, note=tally(crashes))
    limit = Settings().drain_delay_seconds + Settings().drain_seconds
    label = "SIGTERM in a flood: until exit"
    yield Row("bomb_flood_exit_seconds", label, exit_seconds, limit, unit=" s")
    yield Row("bomb_flood_exit_code", "its exit code", exit_code, 0)
    yield Row("bomb_flood_left_behind", "processes left behind", left_behind, 0)
    late = max(report.late_p99 for report in (answers, *meanwhile.values()))
    yield Row("bomb_flood_late_p99_seconds", "lateness of the generators, p99", late, unit=" s")


def _alone(service: Service, bombs: dict[str, bytes], repeats: int) -> Alone:
    result = Alone()
    plain: dict[tuple[str, int], float] = {}
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(service.grpc, options=options) as channel:
        stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]
        for name, bomb in bombs.items():
            code, seconds = _timed(stub, bomb, repeats)
            # No part of the decoding, and 16 MB of it take longer than a small image.
            _, transfer = _timed(stub, bytes(len(bomb)), repeats)
            if code in REFUSALS:
                result.refusals[name] = seconds - transfer
            elif code == OK:
                file = imaging.open_image(bomb)
                key = _format(bomb), file.width * file.height
                if key not in plain:
                    plain[key] = _timed(stub, _plain_image(*key), repeats)[1]
                result.times[name] = (seconds - transfer) / plain[key]
            else:
                result.others.append(f"{code} for {name}")
    return result


def _timed(stub: TokenizerStub, image: bytes, repeats: int) -> tuple[str, float]:
    """(code, seconds) of Encode, the shortest of a few calls: others share the cores"""
    times = []
    for _ in range(repeats):
        started, code = time.perf_counter(), OK
        try:
            stub.Encode(pb.EncodeRequest(image=image), timeout=60)
        except grpc.RpcError as error:
            code = error.code().name
        times.append(time.perf_counter() - started)
    return code, min(times)


def _format(image: bytes) -> str:
    return {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"RI": "WEBP"}[image[:2]]


def _plain_image(format: str, pixels: int) -> bytes:
    """A photo of a camera as JPEG; without noise as PNG or WebP, or it would be too large."""
    side = max(1, round(math.sqrt(pixels)))
    if format == "JPEG":
        return camera_jpeg(camera_photos(side, side, 1)[0])
    photo = Image.open(CROPPED).resize((side, side), Image.Resampling.BICUBIC)
    return encoded(photo, format, **{"PNG": {"compress_level": 3}, "WEBP": {"method": 0}}[format])


def _flood(
    generators: Generators, service: Service, bombs: list[bytes], seconds: float
) -> Future[Report]:
    """Send the bombs in turn, over gRPC and REST, as often as RATE says."""
    requests = [pb.EncodeRequest(image=bomb).SerializeToString() for bomb in bombs]
    target = Mixed(
        (
            Grpc(service.grpc, ENCODE, tuple(requests), good=OK),
            Rest(f"{service.rest}/v1/encode", "POST", tuple(bombs), good=OK),
        )
    )
    return generators.open_loop(target, RATE, seconds)


def _honest_calls(generators: Generators, service: Service, seconds: float) -> dict[str, Report]:
    """Small images over gRPC and checks of health over REST, by kind."""
    running_loops = {}
    for kind, (rate, photos) in HONEST.items():
        requests = [pb.EncodeRequest(image=camera_jpeg(photo)) for photo in photos]
        target = Grpc(service.grpc, ENCODE, tuple(body.SerializeToString() for body in requests))
        running_loops[kind] = generators.open_loop(target, rate, seconds)
    running_loops["/livez"] = generators.open_loop(Rest(f"{service.rest}/livez"), 10, seconds)
    return {kind: loop.result() for kind, loop in running_loops.items()}


def _stop(service: Service) -> tuple[float, float, int]:
    """(seconds until exit, exit code, processes left) after SIGTERM"""
    children = service.children()
    started = time.monotonic()
    try:
        code: float = service.stop(timeout=60)
        seconds = time.monotonic() - started
    except subprocess.TimeoutExpired:
        code, seconds = math.nan, math.inf
        service.process.kill()
    left = sum(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    return seconds, code, left
