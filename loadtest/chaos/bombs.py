"""Small messages that ask for much memory, huge ones, and connections that only sit there; good callers are served meanwhile."""

import asyncio
import contextlib
import io
import resource
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub
from PIL import Image

from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import PHOTOS, Known, known_answers
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running
from service.settings import Settings

GIB = 2**30
BYTES_PER_PIXEL = 16  # of an image while it is decoded and resized: RGB or RGBA, a copy in another mode, a copy that is turned
IDLE_SYSTEM = GIB  # gateway, tritonserver and the demo's engines at rest take 0.6 GB
RECEIVE_SECONDS, IDLE_SECONDS, GRACE = 2, 3, 4
REFUSALS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "413", "422", "429")


def memory_limit(settings: Settings) -> int:
    """Resident bytes that the service may take at most with these settings: what docs/reliability.md promises.

    Itself at rest, a message of the largest size for each image that may be in it, and an image of the most pixels for each thread.
    """
    messages = (settings.places + settings.max_queue_size) * settings.max_message_bytes
    return IDLE_SYSTEM + messages + settings.image_threads * settings.max_pixels * BYTES_PER_PIXEL


def bombs(short: bool) -> Rows:
    """Short: fewer connections, no message of a gigabyte."""
    idle, slow, stalled, body = (400, 50, 10, GIB // 4) if short else (10_000, 300, 100, GIB)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the service inherits it
    with running(receive_seconds=str(RECEIVE_SECONDS), idle_seconds=str(IDLE_SECONDS)) as service:
        known = known_answers(service)
        with (
            process_stats.watched(service.process.pid, 0.25) as peak,
            _good_callers(service, known) as good,
        ):
            taken = [
                f"{what}: {code}"
                for what, code in _small_bombs(service, 1 if short else 20)
                if code not in REFUSALS
            ]
            huge = [
                f"{what}: {code}"
                for what, code in _huge_messages(service, body)
                if code not in REFUSALS
            ]
            large = [
                code
                for code in _largest_allowed(service, 2 if short else 6)
                if code not in ("200", *REFUSALS)
            ]
            still_open, opened = asyncio.run(_silent_connections(service, idle, slow, stalled))
        alive = service.process.poll() is None
    limit = memory_limit(Settings()) / GIB
    yield Row(
        "bombs_taken",
        "image and gzip bombs that were not refused",
        len(taken),
        0,
        note=counted(taken),
    )
    yield Row(
        "bombs_huge_taken",
        f"messages of up to {body / GIB:g} GiB that were not refused",
        len(huge),
        0,
        note=counted(huge),
    )
    yield Row(
        "bombs_large_failed",
        "36-megapixel images neither answered nor refused",
        len(large),
        0,
        note=counted(large),
    )
    for what, count in still_open.items():
        seconds = RECEIVE_SECONDS + IDLE_SECONDS + GRACE
        yield Row(
            f"bombs_{what}_held",
            f"{what} connections not shed after {seconds} s",
            count,
            0,
            note=f"of {opened[what]:,}",
        )
    yield Row(
        "bombs_peak_memory_gib", "peak of resident memory", peak.memory / GIB, limit, unit=" GiB"
    )
    yield Row(
        "bombs_good_failed",
        "good calls meanwhile that failed",
        len(good.failures),
        0,
        note=counted(good.failures),
    )
    yield Row("bombs_good_calls", "good calls meanwhile", len(good.seconds), 1, at_least=True)
    p99 = float(np.percentile(good.seconds, 99)) if good.seconds else float("nan")
    yield Row("bombs_good_p99_seconds", "p99 of good calls meanwhile", p99, unit=" s")
    yield Row("bombs_dead", "services that died", int(not alive), 0)


class _Good:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []


@contextmanager
def _good_callers(service: Service, known: Known) -> Iterator[_Good]:
    """One on each protocol, ten calls a second at most; over REST each with a connection of its own, over gRPC with one for all."""
    good, stop = _Good(), threading.Event()
    right = {
        answer for (_, what, photo), answer in known.items() if what == "encode" and photo == 0
    }

    def over_rest() -> bytes:
        headers = {"Accept": "application/octet-stream"}
        return (
            httpx.post(f"{service.rest}/v1/encode", content=PHOTOS[0], headers=headers, timeout=20)
            .raise_for_status()
            .content
        )

    channel = grpc.insecure_channel(service.grpc)
    stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]

    def over_grpc() -> bytes:
        return bytes(stub.Encode(pb.EncodeRequest(image=PHOTOS[0]), timeout=20).tokens)

    def call_on(call: object) -> None:
        while not stop.wait(0.1):
            started = time.monotonic()
            try:
                if call() not in right:  # type: ignore[operator]
                    good.failures.append("WRONG")
            except (httpx.HTTPError, grpc.RpcError) as error:
                good.failures.append(
                    error.code().name if isinstance(error, grpc.RpcError) else type(error).__name__
                )
            good.seconds.append(time.monotonic() - started)

    over_grpc()
    callers = [threading.Thread(target=call_on, args=[call]) for call in (over_rest, over_grpc)]
    for caller in callers:
        caller.start()
    try:
        yield good
    finally:
        stop.set()
        for caller in callers:
            caller.join()
        channel.close()


def _png(width: int, height: int) -> bytes:
    """Some 69 bytes that claim to be so large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4))
        + chunk(b"IEND", b"")
    )


def _jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims to be so large."""
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
    for what, image in images.items():
        for _ in range(times):
            yield what, _encode_grpc(service, image)
            yield what, _encode_rest(service, image)
    for _ in range(min(times, 3)):
        yield "gzip bomb", _encode_grpc(service, bytes(GIB // 4), grpc.Compression.Gzip)


def _huge_messages(service: Service, size: int) -> Iterator[tuple[str, str]]:
    yield "gRPC message", _encode_grpc(service, bytes(GIB // 16))
    yield "body with Content-Length", _pour(service, f"Content-Length: {size}", b"", size)
    yield "chunked body", _pour(service, "Transfer-Encoding: chunked", b"10000\r\n", size)


def _largest_allowed(service: Service, count: int) -> list[str]:
    """Images of nearly the allowed pixels, all black, so that they are small: more of them at once than there are threads."""
    buffer = io.BytesIO()
    Image.new("RGB", (5990, 5990)).save(buffer, "PNG")
    codes: list[str] = []
    callers = [
        threading.Thread(target=lambda: codes.append(_encode_rest(service, buffer.getvalue())))
        for _ in range(count)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return codes


def _encode_grpc(
    service: Service, image: bytes, compression: grpc.Compression = grpc.Compression.NoCompression
) -> str:
    with grpc.insecure_channel(
        service.grpc, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
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
    """Send zeros until the service answers or hangs up: the status of its answer, 413 where it hung up."""
    piece = before_each + bytes(2**16) + (b"\r\n" if before_each else b"")
    with socket.create_connection(_address(service.rest), timeout=10) as connection:
        connection.sendall(
            f"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n{length}\r\n\r\n".encode()
        )
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


class _Held(asyncio.Protocol):
    """Knows whether the other side has hung up."""

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
    """Idle: not a byte, half of them to each port. Slow: a header byte every half second. Stalled: 15 MB of a body, then nothing.

    (still open after the time that the service grants them, opened) by kind.
    """
    loop = asyncio.get_running_loop()

    async def open_to(address: str, count: int) -> list[_Held]:
        held: list[_Held] = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                held.append((await loop.create_connection(_Held, *_address(address)))[1])
        return held

    stalling = await open_to(service.rest, stalled)
    head = b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 16000000\r\n\r\n"
    for one in stalling:
        one.transport.write(head + bytes(15_000_000))
        await asyncio.sleep(0)
    dribbling = await open_to(service.rest, slow)
    for one in dribbling:
        one.transport.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")
    sitting = await open_to(service.rest, idle // 2) + await open_to(service.grpc, idle // 2)
    until = time.monotonic() + RECEIVE_SECONDS + IDLE_SECONDS + GRACE
    while time.monotonic() < until:
        for one in dribbling:
            if one.open:
                one.transport.write(b"a")
        await asyncio.sleep(0.5)
    kinds = {"idle": sitting, "slow": dribbling, "stalled": stalling}
    still_open = {what: sum(one.open for one in held) for what, held in kinds.items()}
    for one in (*sitting, *dribbling, *stalling):
        one.transport.abort()
    return still_open, {"idle": idle, "slow": slow, "stalled": stalled}


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)
