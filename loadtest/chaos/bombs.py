"""Decompression bombs, huge messages and idle connections: memory stays bounded, and valid clients
are served meanwhile."""

import asyncio
import contextlib
import io
import itertools
import resource
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub
from PIL import Image

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES, Expected, expected_answers
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running

GIB = 2**30
MAX_MEMORY = 6 * GIB  # no valid call waits for memory: loadtest/chaos/memory.py has less
SHARED = 1.1  # pages that several processes share count once for each here
RECEIVE_SECONDS, IDLE_SECONDS, GRACE = 2, 3, 4
POST = "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
REFUSALS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "413", "422", "429")


def bombs(short: bool) -> Rows:
    """Short: fewer connections, no message of a gigabyte."""
    idle, slow, stalled, body = (400, 50, 10, GIB // 4) if short else (10_000, 300, 100, GIB)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the service inherits it
    settings = {"receive_seconds": RECEIVE_SECONDS, "idle_seconds": IDLE_SECONDS}
    settings["max_memory"] = MAX_MEMORY
    with running(**{name: str(value) for name, value in settings.items()}) as service:
        expected = expected_answers(service)
        with (
            process_stats.watched(service.process.pid, 0.25) as peak,
            _valid_clients(service, expected) as valid,
        ):
            small = [
                f"{bomb}: {code}"
                for bomb, code in _small_bombs(service, 1 if short else 20)
                if code not in REFUSALS
            ]
            huge = [
                f"{message}: {code}"
                for message, code in _huge_messages(service, body)
                if code not in REFUSALS
            ]
            large = [
                code
                for code in _largest_allowed(service, 2 if short else 6)
                if code not in ("200", *REFUSALS)
            ]
            still_open, opened = asyncio.run(_silent_connections(service, idle, slow, stalled))
        alive = service.process.poll() is None
    limit = SHARED * MAX_MEMORY / GIB
    label = "image and gzip bombs that were not refused"
    yield Row("bombs_not_refused", label, len(small), 0, note=tally(small))
    label = f"messages of up to {body / GIB:g} GiB that were not refused"
    yield Row("bombs_huge_not_refused", label, len(huge), 0, note=tally(huge))
    label = "36-megapixel images neither answered nor refused"
    yield Row("bombs_large_failed", label, len(large), 0, note=tally(large))
    for kind, count in still_open.items():
        seconds = RECEIVE_SECONDS + IDLE_SECONDS + GRACE
        label = f"{kind} connections not closed after {seconds} s"
        yield Row(f"bombs_{kind}_held", label, count, 0, note=f"of {opened[kind]:,}")
    peak_gib = peak.memory / GIB
    yield Row("bombs_peak_memory_gib", "peak of resident memory", peak_gib, limit, unit=" GiB")
    label = "valid calls meanwhile that failed"
    yield Row("bombs_valid_failed", label, len(valid.failures), 0, note=tally(valid.failures))
    yield Row("bombs_valid_calls", "valid calls meanwhile", len(valid.seconds), 1, at_least=True)
    p99 = float(np.percentile(valid.seconds, 99)) if valid.seconds else float("nan")
    yield Row("bombs_valid_p99_seconds", "p99 of valid calls meanwhile", p99, unit=" s")
    yield Row("bombs_dead", "services that died", int(not alive), 0)


class _ValidCalls:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []


@contextmanager
def _valid_clients(service: Service, expected: Expected) -> Iterator[_ValidCalls]:
    """One client per protocol, at most ten calls/s each; REST opens a connection per call."""
    calls, stop = _ValidCalls(), threading.Event()
    right = {
        answer for (_, role, image), answer in expected.items() if role == "encode" and image == 0
    }

    def over_rest() -> bytes:
        headers = {"Accept": "application/octet-stream"}
        url = f"{service.rest}/v1/encode"
        reply = httpx.post(url, content=IMAGES[0], headers=headers, timeout=20)
        return reply.raise_for_status().content

    channel = grpc.insecure_channel(service.grpc)
    stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]

    def over_grpc() -> bytes:
        return bytes(stub.Encode(pb.EncodeRequest(image=IMAGES[0]), timeout=20).tokens)

    def repeat(call: Callable[[], bytes]) -> None:
        while not stop.wait(0.1):
            started = time.monotonic()
            try:
                if call() not in right:
                    calls.failures.append("WRONG")
            except grpc.RpcError as error:
                calls.failures.append(error.code().name)
            except httpx.HTTPError as error:
                calls.failures.append(type(error).__name__)
            calls.seconds.append(time.monotonic() - started)

    over_grpc()
    threads = [threading.Thread(target=repeat, args=[call]) for call in (over_rest, over_grpc)]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        channel.close()


def _png(width: int, height: int) -> bytes:
    """A PNG of 69 bytes whose header claims width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 4))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims width x height pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _small_bombs(service: Service, times: int) -> Iterator[tuple[str, str]]:
    images = {
        "PNG 9000 x 9000": _png(9000, 9000),
        "PNG 2^31": _png(2**31 - 1, 2**31 - 1),
        "JPEG 60000 x 60000": _jpeg(60_000, 60_000),
    }
    for bomb, image in images.items():
        for _ in range(times):
            yield bomb, _encode_grpc(service, image)
            yield bomb, _encode_rest(service, image)
    for _ in range(min(times, 3)):
        yield "gzip bomb", _encode_grpc(service, bytes(GIB // 4), grpc.Compression.Gzip)


def _huge_messages(service: Service, size: int) -> Iterator[tuple[str, str]]:
    yield "gRPC message", _encode_grpc(service, bytes(GIB // 16))
    yield "body with Content-Length", _pour(service, f"Content-Length: {size}", b"", size)
    yield "chunked body", _pour(service, "Transfer-Encoding: chunked", b"10000\r\n", size)


def _largest_allowed(service: Service, count: int) -> list[str]:
    """Send black images just below max_pixels, more at once than there are image workers."""
    buffer = io.BytesIO()
    Image.new("RGB", (5990, 5990)).save(buffer, "PNG")
    codes: list[str] = []
    threads = [
        threading.Thread(target=lambda: codes.append(_encode_rest(service, buffer.getvalue())))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def _encode_grpc(
    service: Service, image: bytes, compression: grpc.Compression = grpc.Compression.NoCompression
) -> str:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(service.grpc, options=options) as channel:
        try:
            stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]
            stub.Encode(pb.EncodeRequest(image=image), timeout=30, compression=compression)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def _encode_rest(service: Service, image: bytes) -> str:
    try:
        return str(httpx.post(f"{service.rest}/v1/encode", content=image, timeout=30).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def _pour(service: Service, length: str, before_each: bytes, size: int) -> str:
    """Send zeros until the service answers or hangs up; its HTTP status, 413 if it hung up."""
    piece = before_each + bytes(2**16) + (b"\r\n" if before_each else b"")
    with socket.create_connection(_address(service.rest), timeout=10) as connection:
        connection.sendall(f"{POST}{length}\r\n\r\n".encode())
        try:
            for _ in range(size // 2**16):
                connection.sendall(piece)
                if select.select([connection], [], [], 0)[0]:
                    return connection.recv(100).decode(errors="replace")[9:12] or "413"
        except TimeoutError:
            return "neither read nor refused"
        except OSError:
            return "413"
        return "all of it was read"


class _Connection(asyncio.Protocol):
    """`open` is False once the service has hung up."""

    transport: asyncio.Transport
    open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False


async def _silent_connections(
    service: Service, idle: int, slow: int, stalled: int
) -> tuple[dict[str, int], dict[str, int]]:
    """(connections still open after the service's time limits, opened) by kind

    idle: not a byte, half of them to each port. slow: a header byte every half second. stalled:
    15 MB of a body, then nothing.
    """
    loop = asyncio.get_running_loop()

    async def connect(address: str, count: int) -> list[_Connection]:
        connections: list[_Connection] = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                _, connection = await loop.create_connection(_Connection, *_address(address))
                connections.append(connection)
        return connections

    head = f"{POST}Content-Length: 16000000\r\n\r\n".encode()
    kinds = {"stalled": await connect(service.rest, stalled)}
    for connection in kinds["stalled"]:
        connection.transport.write(head + bytes(15_000_000))
        await asyncio.sleep(0)
    kinds["slow"] = await connect(service.rest, slow)
    for connection in kinds["slow"]:
        connection.transport.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")
    kinds["idle"] = [
        *await connect(service.rest, idle // 2),
        *await connect(service.grpc, idle // 2),
    ]
    until = time.monotonic() + RECEIVE_SECONDS + IDLE_SECONDS + GRACE
    while time.monotonic() < until:
        for connection in kinds["slow"]:
            if connection.open:
                connection.transport.write(b"a")
        await asyncio.sleep(0.5)
    opened = {"idle": idle, "slow": slow, "stalled": stalled}
    still_open = {kind: sum(row.open for row in kinds[kind]) for kind in opened}
    for connection in itertools.chain(*kinds.values()):
        connection.transport.abort()
    return still_open, opened


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)
