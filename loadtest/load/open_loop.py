"""Open-loop load generator: constant rate without coordinated omission; and closed loops.

A closed loop waits for each answer before the next call, so a slow service is called less often and
its queue never shows. In an open loop each call has an intended time, and latency counts from it.

The generator itself may fall behind. Its lateness is measured, and `Report.kept_the_schedule` says
whether the latencies are the service's. Run it in its own process: `Generators`.
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
RETRY_SECONDS = 0.1
LATE_SECONDS = 0.02  # largest p99 of lateness with which a generator keeps its schedule
Call: TypeAlias = Callable[[int], Awaitable[str]]  # number of the call -> code


@dataclass(frozen=True)
class Grpc:
    """A unary gRPC method. bodies: serialised requests, sent in turn. Codes are status names."""

    address: str
    method: str
    bodies: tuple[bytes, ...]
    timeout: float = 30.0
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> Any:
        """Yields a `Call` on open connections."""
        # One connection carries 100 concurrent calls; the rest would queue in this process.
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
    """An HTTP request. bodies: sent in turn. Codes are status codes or names of exceptions."""

    url: str
    method: str = "GET"
    bodies: tuple[bytes, ...] = (b"",)
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 30.0
    good: str = "200"

    @asynccontextmanager
    async def connected(self) -> Any:
        """Yields a `Call` on open connections."""
        timeout = aiohttp.ClientTimeout(self.timeout)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=self.headers
        ) as session:

            async def call(number: int) -> str:
                body = self.bodies[number % len(self.bodies)]
                try:
                    async with session.request(self.method, self.url, data=body) as reply:
                        await reply.read()
                        return str(reply.status)
                except (aiohttp.ClientError, TimeoutError) as error:
                    return type(error).__name__

            yield call


@dataclass(frozen=True)
class Mixed:
    """Several targets, called in turn; their `good` code must be the same."""

    targets: tuple[Grpc | Rest, ...]

    @property
    def good(self) -> str:
        return self.targets[0].good

    @asynccontextmanager
    async def connected(self) -> Any:
        """Yields a `Call` on open connections."""
        async with AsyncExitStack() as stack:
            calls = [await stack.enter_async_context(target.connected()) for target in self.targets]

            async def call(number: int) -> str:
                return str(await calls[number % len(calls)](number // len(calls)))

            yield call


Target: TypeAlias = Grpc | Rest | Mixed


@dataclass
class Report:
    """Result of a run: arrays with an entry per call, times in seconds from the start of the run.

    intended: when the call was due; in a closed loop, when it was sent. late: how much later it was
    sent. finished: when the answer arrived.
    """

    seconds: float
    good: str
    intended: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    late: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    finished: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    codes: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))

    @property
    def goodput(self) -> float:
        """Successful answers per second that arrived within the run."""
        in_time = (self.codes == self.good) & (self.finished <= self.seconds)
        return float(np.sum(in_time) / self.seconds)

    def latency(self, percentile: float, code: str | None = None) -> float:
        """Percentile (0 to 100) of latency in seconds, of all calls or of those with `code`.

        0 if there are none.
        """
        latency = self.finished - self.intended
        if code is not None:
            latency = latency[self.codes == code]
        return float(np.percentile(latency, percentile)) if latency.size else 0.0

    def counts(self) -> dict[str, int]:
        """Number of calls by code."""
        return {
            str(code): int(count)
            for code, count in zip(*np.unique(self.codes, return_counts=True), strict=True)
        }

    @property
    def late_p99(self) -> float:
        """p99 of the generator's lateness, in seconds."""
        return float(np.percentile(self.late, 99)) if self.late.size else 0.0

    @property
    def kept_the_schedule(self) -> bool:
        """Whether the latencies are the service's and not the generator's."""
        return self.late_p99 <= LATE_SECONDS


def together(reports: Sequence[Report]) -> Report:
    """Merge several runs of the same load. Goodput then includes answers after the end of a run."""
    rows = {
        name: np.concatenate([getattr(report, name) for report in reports])
        for name in ("intended", "late", "finished", "codes")
    }
    return Report(sum(report.seconds for report in reports), reports[0].good, **rows)


def schedule(rate: float, seconds: float) -> Iterator[float]:
    """Evenly spaced due times in seconds from the start. ValueError unless both are above 0."""
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"rate and seconds must be above 0, not {rate} calls/s for {seconds} s")
    return (number / rate for number in range(round(rate * seconds)))


async def open_loop(target: Target, rate: float, seconds: float) -> Report:
    """Make `rate` calls/s for `seconds`, in this event loop; returns once all have ended."""
    rows: list[tuple[float, float, float, str]] = []
    due = schedule(rate, seconds)
    async with target.connected() as call, asyncio.TaskGroup() as calls:
        start = time.perf_counter()

        async def make_call(number: int, intended: float) -> None:
            late = time.perf_counter() - start - intended
            code = await call(number)
            rows.append((intended, late, time.perf_counter() - start, code))

        for number, intended in enumerate(due):
            # When behind, sleep(0): catch up, but let answers in between.
            await asyncio.sleep(max(0.0, start + intended - time.perf_counter()))
            calls.create_task(make_call(number, intended))
    return _report(seconds, target.good, rows)


async def closed_loop(
    target: Target, clients: int, seconds: float, pause: float = RETRY_SECONDS
) -> Report:
    """Let each of `clients` call again when answered, for `seconds`; after a failure, `pause`
    seconds later."""
    rows: list[tuple[float, float, float, str]] = []
    numbers = itertools.count()
    async with target.connected() as call:
        start = time.perf_counter()

        async def client() -> None:
            while (sent := time.perf_counter() - start) < seconds:
                code = await call(next(numbers))
                rows.append((sent, 0.0, time.perf_counter() - start, code))
                if code != target.good:
                    await asyncio.sleep(pause)

        await asyncio.gather(*(client() for _ in range(clients)))
    return _report(seconds, target.good, rows)


def _report(seconds: float, good: str, rows: list[tuple[float, float, float, str]]) -> Report:
    intended, late, finished, codes = zip(*rows, strict=True)
    return Report(
        seconds, good, np.array(intended), np.array(late), np.array(finished), np.array(codes)
    )


class Generators:
    """Processes that run loops, so that load and measurement do not disturb each other."""

    def __init__(self, count: int) -> None:
        self._pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
        # Start the processes now, not during the first run.
        for start in [self._pool.submit(time.sleep, 0.5) for _ in range(count)]:
            start.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def open_loop(self, target: Target, rate: float, seconds: float) -> Future[Report]:
        """Run the function of the same name in one of the processes."""
        return self._pool.submit(_run, open_loop, target, rate, seconds)

    def closed_loop(
        self, target: Target, clients: int, seconds: float, pause: float = RETRY_SECONDS
    ) -> Future[Report]:
        """Run the function of the same name in one of the processes."""
        return self._pool.submit(_run, closed_loop, target, clients, seconds, pause)


def _run(loop: Callable[..., Any], *arguments: Any) -> Any:
    return uvloop.run(loop(*arguments))
