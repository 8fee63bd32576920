"""Calls at a constant rate, whether or not the service keeps up.

A closed loop waits for each answer before it calls again, so that a slow service is called less and its queue never shows. Here each call
has an intended time, and its latency counts from that time: what a caller would have waited who came then.

The generator may be too slow itself. How late it sent is measured too, and `Report.kept_the_schedule` says whether its figures are the
service's. It belongs into a process of its own: `Generators`.
"""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import aiohttp
import grpc
import numpy as np
import uvloop
from numpy.typing import NDArray

ENCODE = "/channeltok.v1.Tokenizer/Encode"
DECODE = "/channeltok.v1.Tokenizer/Decode"
HEALTH = "/grpc.health.v1.Health/Check"
LATE_SECONDS = 0.02  # a generator whose p99 of lateness is above this does not keep its schedule
Call: TypeAlias = Callable[[int], Awaitable[str]]  # number of the call -> its code


@dataclass(frozen=True)
class Grpc:
    """A unary method. bodies: serialised requests, sent in turn. Codes are names of gRPC's statuses."""

    address: str
    method: str
    bodies: tuple[bytes, ...]
    timeout: float = 30.0
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> Any:
        """A `Call`."""
        # One connection carries 100 calls at once, and the rest would wait in here.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(self.address, options=options) for _ in range(4)]
        methods = [channel.unary_unary(self.method) for channel in channels]

        async def call(number: int) -> str:
            try:
                await methods[number % len(methods)](
                    self.bodies[number % len(self.bodies)], timeout=self.timeout
                )
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return self.good

        try:
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            yield call
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))


@dataclass(frozen=True)
class Rest:
    """An HTTP request. bodies: sent in turn. Codes are status numbers, or the name of what went wrong on the way."""

    url: str
    verb: str = "GET"
    bodies: tuple[bytes, ...] = (b"",)
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 30.0
    good: str = "200"

    @asynccontextmanager
    async def connected(self) -> Any:
        """A `Call`."""
        timeout = aiohttp.ClientTimeout(self.timeout)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=self.headers
        ) as session:

            async def call(number: int) -> str:
                try:
                    async with session.request(
                        self.verb, self.url, data=self.bodies[number % len(self.bodies)]
                    ) as reply:
                        await reply.read()
                        return str(reply.status)
                except (aiohttp.ClientError, TimeoutError) as error:
                    return type(error).__name__

            yield call


@dataclass(frozen=True)
class Mixed:
    """Several in turn, as one; they agree in what is good."""

    targets: tuple[Grpc | Rest, ...]

    @property
    def good(self) -> str:
        return self.targets[0].good

    @asynccontextmanager
    async def connected(self) -> Any:
        """A `Call`."""
        async with AsyncExitStack() as stack:
            calls = [await stack.enter_async_context(target.connected()) for target in self.targets]

            async def call(number: int) -> str:
                return str(await calls[number % len(calls)](number // len(calls)))

            yield call


Target: TypeAlias = Grpc | Rest | Mixed


@dataclass
class Report:
    """What came of a leg, a row for each call. Times in seconds from the leg's start.

    intended: when it was due; in a closed loop, when it was sent. late: how much later it was sent. finished: when the answer was there.
    """

    seconds: float
    good: str
    intended: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    late: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    finished: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    codes: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))

    @property
    def goodput(self) -> float:
        """Good answers per second that came while the leg lasted."""
        return float(
            np.sum((self.codes == self.good) & (self.finished <= self.seconds)) / self.seconds
        )

    def latency(self, percentile: float, code: str | None = None) -> float:
        """Percentile (0 to 100) of the seconds from intended to finished, of the calls that ended in `code` (of all). 0 without any."""
        latency = (self.finished - self.intended)[
            slice(None) if code is None else self.codes == code
        ]
        return float(np.percentile(latency, percentile)) if latency.size else 0.0

    def counts(self) -> dict[str, int]:
        """Calls by code."""
        return {
            str(code): int(count)
            for code, count in zip(*np.unique(self.codes, return_counts=True), strict=True)
        }

    @property
    def late_p99(self) -> float:
        """Seconds."""
        return float(np.percentile(self.late, 99)) if self.late.size else 0.0

    @property
    def kept_the_schedule(self) -> bool:
        """Whether latencies are the service's and not the generator's."""
        return self.late_p99 <= LATE_SECONDS


def together(reports: Sequence[Report]) -> Report:
    """Several legs of the same load as one. Goodput then counts the answers that came after a leg's end too."""
    rows = {
        name: np.concatenate([getattr(report, name) for report in reports])
        for name in ("intended", "late", "finished", "codes")
    }
    return Report(sum(report.seconds for report in reports), reports[0].good, **rows)


def schedule(rate: float, seconds: float) -> Iterator[float]:
    """When each call is due, seconds from the start: evenly spaced. Raises ValueError unless both are above 0."""
    if not (rate > 0 and seconds > 0):
        raise ValueError(
            f"an open loop needs a rate and seconds above 0, not {rate} per second for {seconds} s"
        )
    return (number / rate for number in range(round(rate * seconds)))


async def open_loop(target: Target, rate: float, seconds: float) -> Report:
    """`rate` calls per second for `seconds`, in this event loop; ends when all are answered or have reached their timeout."""
    rows: list[tuple[float, float, float, str]] = []
    due = schedule(rate, seconds)
    async with target.connected() as call, asyncio.TaskGroup() as calls:
        start = time.perf_counter()

        async def one(number: int, intended: float) -> None:
            late = time.perf_counter() - start - intended
            code = await call(number)
            rows.append((intended, late, time.perf_counter() - start, code))

        for number, intended in enumerate(due):
            # Without a pause too when it is behind: it catches up, but lets answers in between.
            await asyncio.sleep(max(0.0, start + intended - time.perf_counter()))
            calls.create_task(one(number, intended))
    return _report(seconds, target.good, rows)


async def closed_loop(target: Target, callers: int, seconds: float) -> Report:
    """`callers` that each call again when answered, for `seconds`: how much the service carries, not how it takes more."""
    rows: list[tuple[float, float, float, str]] = []
    numbers = itertools.count()
    async with target.connected() as call:
        start = time.perf_counter()

        async def one() -> None:
            while (sent := time.perf_counter() - start) < seconds:
                code = await call(next(numbers))
                rows.append((sent, 0.0, time.perf_counter() - start, code))

        await asyncio.gather(*(one() for _ in range(callers)))
    return _report(seconds, target.good, rows)


def _report(seconds: float, good: str, rows: list[tuple[float, float, float, str]]) -> Report:
    intended, late, finished, codes = zip(*rows, strict=True)
    return Report(
        seconds, good, np.array(intended), np.array(late), np.array(finished), np.array(codes)
    )


class Generators:
    """Processes that run legs, so that the load does not disturb who measures, nor one leg another."""

    def __init__(self, count: int) -> None:
        self._pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
        # Here and now, not while the first leg waits for its process.
        for started in [self._pool.submit(time.sleep, 0.5) for _ in range(count)]:
            started.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def open_loop(self, target: Target, rate: float, seconds: float) -> Future[Report]:
        """As the function, beside the caller."""
        return self._pool.submit(_run, open_loop, target, rate, seconds)

    def closed_loop(self, target: Target, callers: int, seconds: float) -> Future[Report]:
        """As the function, beside the caller."""
        return self._pool.submit(_run, closed_loop, target, callers, seconds)


def _run(loop: Callable[..., Any], *arguments: Any) -> Any:
    return uvloop.run(loop(*arguments))
