"""A bulk stream beside single calls: these go first, also where the gateway shares a Triton."""

import itertools
import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import ENCODE, Generators, Grpc, Report

SINGLE = 2  # callers of single images, each with the next call when answered
SLOWER = 3.0  # allowed times the quiet p50
ROUNDS = 3


def bulk(short: bool) -> Rows:
    seconds, rounds = (2.0, 1) if short else (3.0, ROUNDS)
    with running() as owner, Generators(1) as generators:
        yield from _rows("bulk", "embedded Triton", owner, generators, seconds, rounds)
        with running(triton_url=owner.triton_address()) as guest:
            label = "Triton elsewhere"
            yield from _rows("bulk_elsewhere", label, guest, generators, seconds, rounds)


def _rows(
    name: str,
    what: str,
    service: Service,
    generators: Generators,
    seconds: float,
    rounds: int,
) -> Rows:
    requests = tuple(pb.EncodeRequest(image=image, k=32).SerializeToString() for image in IMAGES)
    encode = Grpc(service.grpc, ENCODE, requests)

    def single_calls() -> Report:
        return generators.closed_loop(encode, SINGLE, seconds).result()

    single_calls()  # warm-up
    ratios, p50s, images, failed = [], [], 0, []
    for _ in range(rounds):
        quiet = single_calls()
        with ThreadPoolExecutor(1) as pool:
            stop = threading.Event()
            stream = pool.submit(_stream, service, stop)
            beside = single_calls()
            stop.set()
            images += stream.result()
        failed += [code for code in beside.codes.tolist() if code != "OK"]
        p50s.append((quiet.latency(50), beside.latency(50)))
        ratios.append(p50s[-1][1] / p50s[-1][0])
    quiet_p50, beside_p50 = (statistics.median(one) for one in zip(*p50s, strict=True))
    label = f"{what}: p50 of {SINGLE} single callers beside a bulk stream, times the quiet p50"
    note = f"{quiet_p50:.3g} s and {beside_p50:.3g} s; bulk: {images} images"
    yield Row(f"{name}_p50_ratio", label, statistics.median(ratios), SLOWER, note=note)
    label = f"{what}: single calls that failed"
    yield Row(f"{name}_failed", label, len(failed), 0, note=tally(failed))


def _stream(service: Service, stop: threading.Event) -> int:
    """Encode a stream as fast as the service takes it, until `stop`; the number of its images."""

    def images() -> Iterator[bytes]:
        for image in itertools.cycle(IMAGES):
            if stop.is_set():
                return
            yield image

    with Client(service.grpc, timeout=60) as client:
        return sum(1 for _ in client.encode_stream(images(), 32))
