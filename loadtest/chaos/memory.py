"""Callers that want more memory than there is: the service stays within `max_memory`, and valid
clients are served meanwhile."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import grpc
import httpx
from channeltok import ChannelTokError, Client, Overloaded
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service, eventually, running
from service import machine

MIB = 2**20
MAX_MEMORY = 1200 * MIB
SLACK = 1.1
RECEIVE_SECONDS = 5
LARGE = b"\xff\xd8\xff" + bytes(16 * MIB - 3)  # begins as a JPEG, is none, and has the largest size
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def memory(short: bool) -> Rows:
    """Short: fewer callers."""
    callers = 20 if short else 100
    attacks = {
        "bodies of 16 MiB over REST": _bodies,
        "messages of 16 MiB over gRPC": _messages,
        "halves of bodies over REST": _halves,
        "calls without a message over gRPC": _silent_calls,
    }
    settings = {
        "engine": "onnxruntime",  # as small on every processor
        "max_memory": str(MAX_MEMORY),
        "receive_seconds": str(RECEIVE_SECONDS),
    }
    with running(**settings) as service:
        for number, (title, attack) in enumerate(attacks.items(), 1):
            with _watched(service) as seen:
                asyncio.run(attack(service, callers))
            share = seen.peak / MAX_MEMORY
            label = f"{title}: peak of memory / max_memory"
            yield Row(f"memory_{number}_peak", label, share, SLACK, note=f"{callers} callers")
            label = f"{title}: valid calls answered meanwhile"
            note = tally(seen.refused)
            yield Row(f"memory_{number}_valid", label, seen.answered, 1, at_least=True, note=note)
        with contextlib.suppress(AssertionError):
            eventually(lambda: _reserved(service) == 0, 30)
        label = "bytes still reserved after the attacks"
        yield Row("memory_reserved", label, _reserved(service), 0)
        yield Row("memory_dead", "services that died", int(service.process.poll() is not None), 0)


class _Seen:
    def __init__(self) -> None:
        self.peak, self.answered = 0, 0
        self.refused: list[str] = []


@contextmanager
def _watched(service: Service) -> Iterator[_Seen]:
    """Memory, every 50 ms, and a valid client that repeats what was refused."""
    seen, stop = _Seen(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            seen.peak = max(seen.peak, machine.memory_in_use(service.process.pid))

    def call() -> None:
        deadline = time.monotonic() + 120
        with Client(service.grpc, timeout=60, retries=False) as client:
            while time.monotonic() < deadline and not (stop.is_set() and seen.answered):
                try:
                    client.encode(IMAGES[0])
                    seen.answered += 1
                except Overloaded as error:
                    seen.refused.append(error.code)
                    stop.wait(error.retry_after)
                except ChannelTokError as error:
                    seen.refused.append(error.code)

    threads = [threading.Thread(target=target) for target in (watch, call)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def _bodies(service: Service, callers: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post() -> None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await (await session.post(f"{service.rest}/v1/encode", data=LARGE)).read()

        await asyncio.gather(*(post() for _ in range(callers)))


async def _messages(service: Service, callers: int) -> None:
    request = pb.EncodeRequest(image=LARGE)

    async def call() -> None:
        async with grpc.aio.insecure_channel(service.grpc, OPTIONS) as channel:
            with contextlib.suppress(grpc.RpcError):
                await TokenizerStub(channel).Encode(request, timeout=60)  # type: ignore[no-untyped-call]

    await asyncio.gather(*(call() for _ in range(callers)))


async def _halves(service: Service, callers: int) -> None:
    host, _, port = service.rest.removeprefix("http://").rpartition(":")
    head = f"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(LARGE)}\r\n\r\n"

    async def send() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode() + LARGE[: len(LARGE) // 2])
            await reader.read()
            writer.close()

    await asyncio.gather(*(send() for _ in range(callers)))


async def _silent_calls(service: Service, callers: int) -> None:
    async with grpc.aio.insecure_channel(service.grpc, OPTIONS) as channel:
        method = channel.stream_unary("/channeltok.v1.Tokenizer/Encode")
        calls = [method(timeout=RECEIVE_SECONDS) for _ in itertools.repeat(None, 10 * callers)]
        await asyncio.gather(*calls, return_exceptions=True)


def _reserved(service: Service) -> float:
    page = httpx.get(f"{service.rest}/metrics", timeout=30).text
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith("channeltok_memory_reserved_bytes{")
    )
