"""Good, bad, oversized, slow and vanishing calls on both protocols, in any order. Then: is it alive, and is all of it given back?"""

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

from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import PHOTOS, Known, known_answers
from loadtest.harness import process_stats
from loadtest.harness.service_process import Service, running

AT_ONCE = 12
TRIES, PAUSE = 20, 0.1  # of a call that was refused for want of a place, as its retry hint says
GROWTH = 0.05  # of memory; handles and threads may not grow at all
OVERSIZED = bytes(17 * 2**20)  # a megabyte above the default limit
WRONG = "WRONG"


class _Overloaded(Exception):
    """The service has no place just now, and says so."""


@dataclass
class Mix:
    """Draws calls and judges each answer. complaints: what a call ended in that it must not. refused: how often for want of a place."""

    service: Service
    known: Known
    stub: TokenizerStub
    session: aiohttp.ClientSession
    chance: random.Random
    made: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    refused: int = 0

    async def draw(self) -> None:
        """One call of any kind."""
        kinds: dict[Callable[[], Awaitable[None]], int] = {
            self._good_grpc: 20,
            self._good_rest: 20,
            self._bad_grpc: 18,
            self._bad_rest: 18,
            self._oversized_grpc: 1,
            self._oversized_rest: 1,
            self._slow_body: 2,
            self._impatient: 7,
            self._vanishing_stream: 3,
            self._vanishing_in_the_body: 5,
            self._vanishing_before_the_answer: 5,
        }
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        name = getattr(kind, "__name__", "").strip("_")
        self.made[name] += 1
        try:
            async with asyncio.timeout(30):
                await self._until_it_has_a_place(kind)
        except TimeoutError:
            self.complaints.append(f"{name}: hung")
        except (aiohttp.ClientError, grpc.aio.AioRpcError, OSError) as error:
            what = (
                error.code().name
                if isinstance(error, grpc.aio.AioRpcError)
                else type(error).__name__
            )
            self.complaints.append(f"{name}: {what}")

    async def _until_it_has_a_place(self, kind: Callable[[], Awaitable[None]]) -> None:
        for _ in range(TRIES):
            try:
                await kind()
                return
            except _Overloaded:
                self.refused += 1
                await asyncio.sleep(PAUSE)
        self.complaints.append(f"{TRIES} times refused")

    def _expect(self, name: str, held: bool) -> None:
        if not held:
            self.complaints.append(f"{name}: {WRONG}")

    def _photo(self) -> tuple[int, bytes]:
        number = self.chance.randrange(len(PHOTOS))
        return number, PHOTOS[number]

    def _right(self, photo: int, tokens: bytes) -> bool:
        return any(
            right == tokens
            for (_, what, number), right in self.known.items()
            if what == "encode" and number == photo
        )

    def _rubbish(self) -> bytes:
        _, photo = self._photo()
        cut = photo[: self.chance.randrange(len(photo) // 2)]
        return self.chance.choice(
            [cut, b"GIF89a" + cut, self.chance.randbytes(self.chance.randrange(2000))]
        )

    async def _good_grpc(self) -> None:
        number, photo = self._photo()
        try:
            reply = await self.stub.Encode(pb.EncodeRequest(image=photo))
        except grpc.aio.AioRpcError as error:
            _raise_if_overloaded(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
            raise
        self._expect("good", self._right(number, reply.tokens))

    async def _good_rest(self) -> None:
        number, photo = self._photo()
        async with self.session.post(
            "/v1/encode", data=photo, headers={"Accept": "application/octet-stream"}
        ) as reply:
            _raise_if_overloaded(reply.status == 429)
            self._expect("good", self._right(number, await reply.read()))

    async def _bad_grpc(self) -> None:
        try:
            await self.stub.Encode(pb.EncodeRequest(image=self._rubbish()))
            self._expect("bad_grpc", False)
        except grpc.aio.AioRpcError as error:
            _raise_if_overloaded(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
            self._expect("bad_grpc", error.code() is grpc.StatusCode.INVALID_ARGUMENT)

    async def _bad_rest(self) -> None:
        path = self.chance.choice(["/v1/encode", "/v1/encode?k=0", "/v1/decode"])
        async with self.session.post(path, data=self._rubbish()) as reply:
            _raise_if_overloaded(reply.status == 429)
            self._expect("bad_rest", 400 <= reply.status < 500)

    async def _oversized_grpc(self) -> None:
        try:
            await self.stub.Encode(pb.EncodeRequest(image=OVERSIZED))
            self._expect("oversized_grpc", False)
        except grpc.aio.AioRpcError as error:
            self._expect("oversized_grpc", error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)

    async def _oversized_rest(self) -> None:
        # The service may hang up on a body that it does not want; then the sender sees only that.
        with suppress(aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            async with self.session.post("/v1/encode", data=io.BytesIO(OVERSIZED)) as reply:
                self._expect("oversized_rest", reply.status == 413)

    async def _slow_body(self) -> None:
        number, photo = self._photo()

        async def dribble() -> object:
            step = len(photo) // 10 + 1
            for start in range(0, len(photo), step):
                yield photo[start : start + step]
                await asyncio.sleep(0.05)

        async with self.session.post(
            "/v1/encode", data=dribble(), headers={"Accept": "application/octet-stream"}
        ) as reply:
            _raise_if_overloaded(reply.status == 429)
            self._expect("slow_body", self._right(number, await reply.read()))

    async def _impatient(self) -> None:
        with suppress(grpc.aio.AioRpcError):
            await self.stub.Encode(
                pb.EncodeRequest(image=self._photo()[1]), timeout=self.chance.uniform(0.001, 0.02)
            )

    async def _vanishing_stream(self) -> None:
        call = self.stub.EncodeStream()
        for number in range(4):
            await call.write(
                pb.EncodeStreamRequest(id=number, request=pb.EncodeRequest(image=self._photo()[1]))
            )
        await call.read()
        call.cancel()

    async def _vanishing_in_the_body(self) -> None:
        await self._send_and_leave(b"Content-Length: 99999\r\n\r\n" + self._photo()[1][:500])

    async def _vanishing_before_the_answer(self) -> None:
        photo = self._photo()[1]
        await self._send_and_leave(f"Content-Length: {len(photo)}\r\n\r\n".encode() + photo)

    async def _send_and_leave(self, rest: bytes) -> None:
        host, port = self.service.rest.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/encode HTTP/1.1\r\nHost: x\r\n" + rest)
        await writer.drain()
        writer.transport.abort()


def _raise_if_overloaded(overloaded: bool) -> None:
    if overloaded:
        raise _Overloaded


async def _calls(service: Service, known: Known, count: int, seed: int) -> Mix:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        grpc.aio.insecure_channel(service.grpc, options=options) as channel,
        aiohttp.ClientSession(service.rest, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        mix = Mix(service, known, TokenizerStub(channel), session, random.Random(seed))  # type: ignore[no-untyped-call]
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                await mix.draw()

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return mix


@dataclass(frozen=True)
class _Measured:
    """What a service took before and after the calls, connections closed. new_threads: by name."""

    mix: Mix
    before: process_stats.Reading
    after: process_stats.Reading
    new_threads: Counter[str]

    @property
    def memory_growth(self) -> float:
        """As a share."""
        return self.after.grown_over(self.before)["memory"]


def _measured(
    service: Service, known: Known, warm_up: int, count: int, seconds: float
) -> _Measured:
    asyncio.run(_calls(service, known, warm_up, seed=1))
    pid = service.process.pid
    before, names = process_stats.settled(pid, seconds), process_stats.thread_names(pid)
    mix = asyncio.run(_calls(service, known, count, seed=2))
    return _Measured(
        mix,
        before,
        process_stats.settled(pid, seconds, back_to=before),
        process_stats.thread_names(pid) - names,
    )


def mixed(short: bool) -> Rows:
    """The same calls then go to a service with a planted leak: the meter must see it."""
    count, warm_up, seconds = (500, 300, 1.0) if short else (10_000, 1_500, 3.0)
    with running() as service:
        known = known_answers(service)
        sound = _measured(service, known, warm_up, count, seconds)
        alive = service.process.poll() is None
        replaced = service.events("restarting") + service.events("reloading")
        crashes = [line for line in service.log if "internal_error" in line or "Traceback" in line]
    with running(("-m", "loadtest.chaos.leaky_service")) as leaky:
        seen = _measured(leaky, known, 100, 1500, seconds).memory_growth
    mix, handles, threads = (
        sound.mix,
        sound.after.handles - sound.before.handles,
        sound.after.threads - sound.before.threads,
    )
    yield Row(
        "mixed_calls", "calls on both protocols", count, note=counted(list(mix.made.elements()))
    )
    yield Row(
        "mixed_refused",
        "times that one of them was refused for want of a place, and tried again",
        mix.refused,
    )
    yield Row("mixed_dead", "services that died", int(not alive), 0)
    yield Row("mixed_crashes", "exceptions in its log", len(crashes), 0)
    what = counted([event.get("what") or event["model"] for event in replaced])
    yield Row(
        "mixed_replaced",
        "tritonservers and engines that had to be replaced",
        len(replaced),
        0,
        note=what,
    )
    yield Row(
        "mixed_wrong",
        "calls that did not end as they must",
        len(mix.complaints),
        0,
        note=counted(mix.complaints),
    )
    yield Row(
        "mixed_memory_growth",
        "memory after a warm-up round, growth",
        100 * sound.memory_growth,
        100 * GROWTH,
        unit=" %",
    )
    yield Row("mixed_handles_growth", "open handles, growth", handles, 0)
    new = counted(list(sound.new_threads.elements()))
    yield Row(
        "mixed_threads_growth",
        "threads, growth",
        threads,
        0,
        note=f"new: {new}" if threads > 0 else "",
    )
    yield Row(
        "mixed_planted_leak",
        "the planted leak, as the same meter sees it",
        100 * seen,
        100 * GROWTH,
        at_least=True,
        unit=" %",
    )
