"""Watches of grpc.health.v1: none blinds another, and their number and age are limited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.core.memory import MemoryBudget
from service.core.refusals import Refusals
from service.grpc.aio_server import make_server
from service.grpc.connections import Connections
from service.grpc.entrance import GuardedServer
from service.grpc.health import WATCHES_OF_CONNECTION, HealthServicer
from service.grpc.requests import MessageLimits
from service.security.auth import Authenticator
from tests.support import http2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
MAX_WATCHES = 6
SECONDS = 2.0  # that a Watch lasts, where a test limits it
SEND_SECONDS = 1.0
PATH = "/grpc.health.v1.Health/"
EMPTY = b"\0\0\0\0\0"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Server:
    def __init__(self, watch_seconds: float) -> None:
        self.health = HealthServicer(MAX_WATCHES, watch_seconds, SEND_SECONDS)
        connections = Connections()
        self.server = make_server()
        guarded = GuardedServer(
            self.server,
            Authenticator(None),
            MemoryBudget(2**30),
            Refusals(),
            MessageLimits(5, SEND_SECONDS, 2**20, {}),
            connections=connections,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health, guarded)
        self.port = connections.port = self.server.add_insecure_port("127.0.0.1:0")
        self.health.set("", SERVING)


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    started = Server(getattr(request, "param", 60.0))
    await started.server.start()
    yield started
    await started.server.stop(0)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def connect(server: Server, stack: AsyncExitStack) -> health_pb2_grpc.HealthStub:
    address = f"127.0.0.1:{server.port}"
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, OWN_CONNECTION))
    return health_pb2_grpc.HealthStub(channel)


def watch(stub: health_pb2_grpc.HealthStub, service: str = "") -> AsyncIterator[int]:
    call = stub.Watch(health_pb2.HealthCheckRequest(service=service))

    async def states() -> AsyncIterator[int]:
        async for reply in call:
            yield reply.status

    return states()


async def next_state(states: AsyncIterator[int]) -> int:
    return await asyncio.wait_for(anext(states), 10)


async def code_of(states: AsyncIterator[int]) -> grpc.StatusCode:
    try:
        while True:
            await next_state(states)
    except grpc.aio.AioRpcError as error:
        return error.code()


async def test_watch_yields_the_state_and_each_change(
    server: Server, stack: AsyncExitStack
) -> None:
    stub = await connect(server, stack)
    states, other = watch(stub), watch(stub, "another")
    assert await next_state(states) == SERVING
    assert await next_state(other) == UNKNOWN
    server.health.set("", NOT_SERVING)
    server.health.set("another", SERVING)
    assert await next_state(states) == NOT_SERVING
    assert await next_state(other) == SERVING


async def test_watcher_that_disconnects_does_not_blind_the_others(
    server: Server, stack: AsyncExitStack
) -> None:
    stub = await connect(server, stack)
    states = watch(stub)
    assert await next_state(states) == SERVING
    dropped = stub.Watch(health_pb2.HealthCheckRequest())
    await dropped.read()
    dropped.cancel()
    await asyncio.sleep(0.2)
    server.health.set("", NOT_SERVING)
    assert await next_state(states) == NOT_SERVING


async def test_watcher_that_reads_nothing_does_not_hold_up_the_others(
    server: Server, stack: AsyncExitStack
) -> None:
    address = f"127.0.0.1:{server.port}"
    states = watch(await connect(server, stack))
    assert await next_state(states) == SERVING
    with http2.Connection(address, settings=http2.READS_NOTHING) as deaf:
        deaf.call(1, PATH + "Watch")
        deaf.send(http2.DATA, 1, EMPTY, http2.END_STREAM)
        await asyncio.sleep(0.2)
        for status in (NOT_SERVING, SERVING, NOT_SERVING):
            server.health.set("", status)
        await asyncio.sleep(0.1)
        while (state := await next_state(states)) != NOT_SERVING:
            assert state == SERVING


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_reply_that_nobody_reads_ends_the_connection(
    server: Server, stack: AsyncExitStack, method: str
) -> None:
    """The window of HTTP/2 has no bytes, while the connection itself is read."""
    states = watch(await connect(server, stack))
    address = f"127.0.0.1:{server.port}"
    with http2.Connection(address, settings=http2.READS_NOTHING) as deaf:
        deaf.call(1, PATH + method)
        deaf.send(http2.DATA, 1, EMPTY, http2.END_STREAM)
        seen, seconds = await asyncio.to_thread(deaf.frames_until, http2.DATA)
    assert seen[-1] == -1
    assert seconds > SEND_SECONDS - 0.5
    assert await next_state(states) == SERVING
    server.health.set("", NOT_SERVING)
    assert await next_state(states) == NOT_SERVING


async def test_watches_are_limited_by_connection_and_in_all(
    server: Server, stack: AsyncExitStack
) -> None:
    first, second = await connect(server, stack), await connect(server, stack)
    watches = [watch(first) for _ in range(WATCHES_OF_CONNECTION)]
    watches += [watch(second) for _ in range(MAX_WATCHES - WATCHES_OF_CONNECTION)]
    assert [await next_state(states) for states in watches] == MAX_WATCHES * [SERVING]
    assert await code_of(watch(first)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await code_of(watch(second)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await first.Check(health_pb2.HealthCheckRequest())).status == SERVING
    await stack.aclose()  # all are dropped
    await asyncio.sleep(0.2)
    async with AsyncExitStack() as later:
        assert await next_state(watch(await connect(server, later))) == SERVING


@pytest.mark.parametrize("server", [SECONDS], indirect=True)
async def test_watch_ends_at_its_age_with_a_status_that_clients_retry(
    server: Server, stack: AsyncExitStack
) -> None:
    states = watch(await connect(server, stack))
    assert await next_state(states) == SERVING
    assert await code_of(states) is grpc.StatusCode.UNAVAILABLE


async def test_check_knows_only_the_services_that_are_set(
    server: Server, stack: AsyncExitStack
) -> None:
    stub = await connect(server, stack)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="another"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
