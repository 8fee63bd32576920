"""The schedule is kept; a service that stalls shows as latency, not as fewer calls."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from aiohttp import web
from grpc_health.v1 import health, health_pb2_grpc

from loadtest.load.open_loop import (
    HEALTH,
    LATE_SECONDS,
    Generators,
    Grpc,
    Mixed,
    Report,
    Rest,
    closed_loop,
    open_loop,
    schedule,
)


@dataclass(frozen=True)
class Simulated:
    """A target in this process: call i takes seconds[i] and blocks the event loop for blocks[i]."""

    seconds: dict[int, float]
    blocks: dict[int, float]
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        async def call(number: int) -> str:
            time.sleep(self.blocks.get(number, 0))  # noqa: ASYNC251
            await asyncio.sleep(self.seconds.get(number, 0.0))
            return "OK" if number % 10 else "REFUSED"

        yield call


def test_schedule_is_even() -> None:
    assert list(schedule(4, 1)) == [0, 0.25, 0.5, 0.75]
    assert len(list(schedule(33.3, 10))) == 333


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0)])
def test_schedule_rejects_a_rate_or_duration_of_zero(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        schedule(rate, seconds)


async def test_open_loop_makes_every_call_on_time() -> None:
    report = await open_loop(Simulated({}, {}), 100, 1)
    assert report.counts() == {"OK": 90, "REFUSED": 10}
    assert report.goodput == pytest.approx(90, abs=2)
    assert np.allclose(np.sort(report.intended), np.arange(100) / 100)
    assert report.latency(50) < 0.1


async def test_open_loop_is_not_delayed_by_a_slow_answer() -> None:
    report = await open_loop(Simulated({5: 0.6}, {}), 50, 1)
    latency = report.finished - report.intended
    assert (latency > 0.5).sum() == 1


async def test_open_loop_shows_a_stalled_service_in_every_call_of_that_time() -> None:
    """No coordinated omission: a closed loop has one slow call here and omits all others."""

    @dataclass(frozen=True)
    class Stalling:
        good: str = "OK"

        @asynccontextmanager
        async def connected(self) -> AsyncIterator[Any]:
            started = time.perf_counter()

            async def call(_: int) -> str:
                until = started + 0.8
                if started + 0.3 < time.perf_counter() < until:
                    await asyncio.sleep(until - time.perf_counter())
                await asyncio.sleep(0.001)
                return "OK"

            yield call

    report = await open_loop(Stalling(), 100, 1)
    latency = report.finished - report.intended
    assert len(report.codes) == 100
    slow = (latency > 0.1).sum()  # 40, and more where the machine itself pauses
    assert slow >= 35
    assert report.latency(90, "OK") > 0.1
    closed = await closed_loop(Stalling(), 1, 0.9)
    slow_when_closed = ((closed.finished - closed.intended) > 0.1).sum()
    assert 1 <= slow_when_closed < slow / 5


async def test_report_shows_the_lateness_of_the_generator() -> None:
    report = await open_loop(Simulated({}, {20: 0.3}), 100, 0.6)
    assert len(report.codes) == 60  # it caught up
    assert report.late_p99 > 10 * LATE_SECONDS
    assert not report.kept_the_schedule
    assert report.latency(99) > 0.2  # and its own lateness is in the latency, not hidden


def test_report_has_percentiles_of_0_for_a_code_without_calls() -> None:
    assert Report(1.0, "OK").latency(99, "OK") == 0
    assert Report(1.0, "OK").late_p99 == 0


@pytest.mark.bench
async def test_generators_call_rest_and_grpc_from_their_own_process() -> None:
    async def teapot(_: web.Request) -> web.Response:
        return web.Response(status=418)

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.add_routes([web.post("/echo", echo), web.get("/teapot", teapot)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (rest_port,) = {address[1] for address in runner.addresses}
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with await asyncio.to_thread(Generators, 1) as generators:
            targets: dict[str, Any] = {
                "200": Rest(f"http://127.0.0.1:{rest_port}/echo", "POST", (b"a", b"b")),
                "418": Rest(f"http://127.0.0.1:{rest_port}/teapot"),
                "OK": Grpc(f"127.0.0.1:{grpc_port}", HEALTH, (b"",)),
                "UNIMPLEMENTED": Grpc(f"127.0.0.1:{grpc_port}", "/no.such/Method", (b"",)),
            }
            for code, target in targets.items():
                report = await asyncio.wrap_future(generators.open_loop(target, 50, 0.4))
                assert report.counts() == {code: 20}
                assert (report.goodput > 0) == (code in ("200", "OK"))
            closed = await asyncio.wrap_future(generators.closed_loop(targets["OK"], 2, 0.3))
            assert closed.goodput > 20
    finally:
        await runner.cleanup()
        await server.stop(None)


async def test_open_loop_reports_a_closed_port_as_an_error_of_each_call() -> None:
    report = await open_loop(Rest("http://127.0.0.1:9/"), 50, 0.2)
    assert report.counts() == {"ClientConnectorError": 10}
    assert report.goodput == 0


@dataclass(frozen=True)
class Recording:
    """A target that keeps the numbers of its calls."""

    numbers: list[int] = field(default_factory=list)
    good: str = "OK"

    @asynccontextmanager
    async def connected(self) -> Any:
        async def call(number: int) -> str:
            self.numbers.append(number)
            return self.good

        yield call


async def test_mixed_calls_its_targets_in_turn_each_with_its_own_count() -> None:
    first, second = Recording(), Recording()
    mixed = Mixed((first, second))  # type: ignore[arg-type]
    async with mixed.connected() as call:
        assert [await call(number) for number in range(5)] == ["OK"] * 5
    assert (first.numbers, second.numbers) == ([0, 1, 2], [0, 1])
