"""Valid, invalid, oversized, slow and disconnecting calls on both protocols, in random order; then
checks that the service lives and has released all memory, handles and threads."""

import asyncio
import io
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import grpc
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES, Expected, expected_answers
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running

CONCURRENCY = 12
TOKEN_BYTES = {"Accept": "application/octet-stream"}
TRIES, PAUSE = 20, 0.1  # of a call refused as OVERLOADED; the pause is that of its retry hint
GROWTH = 0.05  # allowed for memory; handles and threads may not grow at all
OVERSIZED = bytes(17 * 2**20)  # a megabyte above the default limit


class _Overloaded(Exception):
    """The call was refused as OVERLOADED."""


@dataclass
class Mix:
    """Draws random calls and checks each answer.

    calls: how many of each kind. failures: wrong ends of calls. overloaded: refusals as OVERLOADED.
    """

    service: Service
    expected: Expected
    stub: TokenizerStub
    session: aiohttp.ClientSession
    rng: random.Random
    calls: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    overloaded: int = 0

    async def draw(self) -> None:
        """Make one call of a random kind."""
        kinds: dict[Callable[[], Awaitable[None]], int] = {
            self._valid_grpc: 20,
            self._valid_rest: 20,
            self._invalid_grpc: 18,
            self._invalid_rest: 18,
            self._oversized_grpc: 1,
            self._oversized_rest: 1,
            self._slow_body: 2,
            self._short_deadline: 7,
            self._cancelled_stream: 3,
            self._disconnect_in_body: 5,
            self._disconnect_before_answer: 5,
        }
        (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
        name = getattr(kind, "__name__", "").strip("_")
        self.calls[name] += 1
        try:
            async with asyncio.timeout(30):
                await self._retry_while_overloaded(kind)
        except TimeoutError:
            self.failures.append(f"{name}: hung")
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{name}: {error.code().name}")
        except (aiohttp.ClientError, OSError) as error:
            self.failures.append(f"{name}: {type(error).__name__}")

    async def _retry_while_overloaded(self, kind: Callable[[], Awaitable[None]]) -> None:
        for _ in range(TRIES):
            try:
                await kind()
                return
            except _Overloaded:
                self.overloaded += 1
                await asyncio.sleep(PAUSE)
        self.failures.append(f"refused {TRIES} times")

    def _expect(self, name: str, held: bool) -> None:
        if not held:
            self.failures.append(f"{name}: WRONG")

    def _image(self) -> tuple[int, bytes]:
        number = self.rng.randrange(len(IMAGES))
        return number, IMAGES[number]

    def _is_expected(self, image: int, tokens: bytes) -> bool:
        return any(
            answer == tokens
            for (_, role, number), answer in self.expected.items()
            if role == "encode" and number == image
        )

    def _broken_image(self) -> bytes:
        _, image = self._image()
        cut = image[: self.rng.randrange(len(image) // 2)]
        noise = self.rng.randbytes(self.rng.randrange(2000))
        return self.rng.choice([cut, b"GIF89a" + cut, noise])

    async def _valid_grpc(self) -> None:
        number, image = self._image()
        try:
            reply = await self.stub.Encode(pb.EncodeRequest(image=image))
        except grpc.aio.AioRpcError as error:
            _raise_if_overloaded(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
            raise
        self._expect("valid", self._is_expected(number, reply.tokens))

    async def _valid_rest(self) -> None:
        number, image = self._image()
        async with self.session.post("/v1/encode", data=image, headers=TOKEN_BYTES) as reply:
            _raise_if_overloaded(reply.status == 429)
            self._expect("valid", self._is_expected(number, await reply.read()))

    async def _invalid_grpc(self) -> None:
        try:
            await self.stub.Encode(pb.EncodeRequest(image=self._broken_image()))
            self._expect("invalid_grpc", False)
        except grpc.aio.AioRpcError as error:
            _raise_if_overloaded(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
            self._expect("invalid_grpc", error.code() is grpc.StatusCode.INVALID_ARGUMENT)

    async def _invalid_rest(self) -> None:
        path = self.rng.choice(["/v1/encode", "/v1/encode?k=0", "/v1/decode"])
        async with self.session.post(path, data=self._broken_image()) as reply:
            _raise_if_overloaded(reply.status == 429)
            self._expect("invalid_rest", 400 <= reply.status < 500)

    async def _oversized_grpc(self) -> None:
        try:
            await self.stub.Encode(pb.EncodeRequest(image=OVERSIZED))
            self._expect("oversized_grpc", False)
        except grpc.aio.AioRpcError as error:
            self._expect("oversized_grpc", error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)

    async def _oversized_rest(self) -> None:
        # The service may hang up instead of reading the body.
        with suppress(aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            async with self.session.post("/v1/encode", data=io.BytesIO(OVERSIZED)) as reply:
                self._expect("oversized_rest", reply.status == 413)

    async def _slow_body(self) -> None:
        number, image = self._image()

        async def dribble() -> object:
            step = len(image) // 10 + 1
            for start in range(0, len(image), step):
                yield image[start : start + step]
                await asyncio.sleep(0.05)

        async with self.session.post("/v1/encode", data=dribble(), headers=TOKEN_BYTES) as reply:
            _raise_if_overloaded(reply.status == 429)
            self._expect("slow_body", self._is_expected(number, await reply.read()))

    async def _short_deadline(self) -> None:
        with suppress(grpc.aio.AioRpcError):
            timeout = self.rng.uniform(0.001, 0.02)
            await self.stub.Encode(pb.EncodeRequest(image=self._image()[1]), timeout=timeout)

    async def _cancelled_stream(self) -> None:
        call = self.stub.EncodeStream()
        for number in range(4):
            request = pb.EncodeRequest(image=self._image()[1])
            await call.write(pb.EncodeStreamRequest(id=number, request=request))
        await call.read()
        call.cancel()

    async def _disconnect_in_body(self) -> None:
        await self._send_and_disconnect(b"Content-Length: 99999\r\n\r\n" + self._image()[1][:500])

    async def _disconnect_before_answer(self) -> None:
        image = self._image()[1]
        head = f"Content-Length: {len(image)}\r\n\r\n".encode()
        await self._send_and_disconnect(head + image)

    async def _send_and_disconnect(self, rest: bytes) -> None:
        host, port = self.service.rest.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\n" + rest)
        await writer.drain()
        writer.transport.abort()


def _raise_if_overloaded(overloaded: bool) -> None:
    if overloaded:
        raise _Overloaded


async def _calls(service: Service, expected: Expected, count: int, seed: int) -> Mix:
    """Make `count` random calls from concurrent clients."""
    options = [("grpc.max_send_message_length", -1)]
    async with (
        grpc.aio.insecure_channel(service.grpc, options=options) as channel,
        aiohttp.ClientSession(service.rest, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]
        mix = Mix(service, expected, stub, session, random.Random(seed))
        remaining = iter(range(count))

        async def client() -> None:
            for _ in remaining:
                await mix.draw()

        await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return mix


@dataclass(frozen=True)
class _Growth:
    """Readings before and after the calls, with connections closed. new_threads: by name."""

    mix: Mix
    before: process_stats.Reading
    after: process_stats.Reading
    new_threads: Counter[str]

    @property
    def memory(self) -> float:
        """In percent."""
        return 100 * self.after.growth_since(self.before)["memory"]


def _measure(
    service: Service, expected: Expected, warm_up: int, count: int, seconds: float
) -> _Growth:
    asyncio.run(_calls(service, expected, warm_up, seed=1))
    pid = service.process.pid
    before, names = process_stats.settled(pid, seconds), process_stats.thread_names(pid)
    mix = asyncio.run(_calls(service, expected, count, seed=2))
    after = process_stats.settled(pid, seconds, back_to=before)
    return _Growth(mix, before, after, process_stats.thread_names(pid) - names)


def mixed(short: bool) -> Rows:
    """The same calls then go to a service with a planted leak, which the readings must show."""
    count, warm_up, seconds = (500, 300, 1.0) if short else (6_000, 1_500, 3.0)
    with running() as service:
        expected = expected_answers(service)
        growth = _measure(service, expected, warm_up, count, seconds)
        alive = service.process.poll() is None
        replaced = service.events("restarting") + service.events("reloading")
        crashes = [line for line in service.log if "internal_error" in line or "Traceback" in line]
    with running(("-m", "loadtest.chaos.leaky_service")) as leaky:
        leak = _measure(leaky, expected, 100, 1500, seconds).memory
    mix, before, after = growth.mix, growth.before, growth.after
    kinds = tally(list(mix.calls.elements()))
    yield Row("mixed_calls", "calls on both protocols", count, note=kinds)
    yield Row("mixed_overloaded", "calls refused as OVERLOADED and retried", mix.overloaded)
    yield Row("mixed_dead", "services that died", int(not alive), 0)
    yield Row("mixed_crashes", "exceptions in its log", len(crashes), 0)
    label = "tritonservers and engines that had to be replaced"
    names = tally([event.get("what") or event["model"] for event in replaced])
    yield Row("mixed_replaced", label, len(replaced), 0, note=names)
    label = "calls that ended in a wrong way"
    yield Row("mixed_wrong", label, len(mix.failures), 0, note=tally(mix.failures))
    label, limit = "growth of memory after a warm-up", 100 * GROWTH
    yield Row("mixed_memory_growth", label, growth.memory, limit, unit=" %")
    yield Row("mixed_handles_growth", "growth of open handles", after.handles - before.handles, 0)
    threads = after.threads - before.threads
    note = f"new: {tally(list(growth.new_threads.elements()))}" if threads > 0 else ""
    yield Row("mixed_threads_growth", "growth of threads", threads, 0, note=note)
    label = "growth of memory with the planted leak"
    yield Row("mixed_planted_leak", label, leak, limit, at_least=True, unit=" %")
