"""The faulty service, and a fixture that runs a test with both clients."""

import asyncio
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from channeltok import AsyncClient, Client, _channel

from tests.support.faulty_service import FaultyService, start


@pytest.fixture(scope="session")
def service() -> FaultyService:
    return FaultyService()


@pytest.fixture(scope="session")
def target(service: FaultyService) -> Iterator[str]:
    server, address = start(service)
    yield address
    server.stop(grace=None).wait()


class Blocking:
    """AsyncClient with the methods of Client, on an event loop in its own thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(*args, **kwargs)

        try:
            self._client = self._run(make())
        except BaseException:
            self._stop()
            raise

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name.endswith("_stream"):
            return lambda *args, **kwargs: self._results(method(*args, **kwargs))
        return lambda *args, **kwargs: self._run(method(*args, **kwargs))

    def close(self) -> None:
        self._run(self._client.close())
        self._stop()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _results(self, stream: AsyncGenerator[Any, None]) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(stream)

        try:
            while True:
                try:
                    result = self._run(step())
                except StopAsyncIteration:
                    return
                yield result
        finally:
            self._run(stream.aclose())


@pytest.fixture(params=[Client, Blocking], ids=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest, target: str) -> Iterator[Callable[..., Any]]:
    """Makes clients, by default of the faulty service, and closes them."""
    clients = []

    def connect(address: str = target, **kwargs: Any) -> Any:
        clients.append(request.param(address, **kwargs))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Any]) -> Any:
    return connect()


@pytest.fixture
def unique() -> str:
    """A text that no other test sends: the service counts attempts by an image's bytes."""
    return uuid.uuid4().hex


@pytest.fixture
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are made from now on wait only an instant before they repeat a call."""
    monkeypatch.setitem(_channel._RETRY_POLICY, "initialBackoff", "0.01s")
    monkeypatch.setitem(_channel._RETRY_POLICY, "maxBackoff", "0.01s")
    monkeypatch.setattr(_channel, "_MAX_BACKOFF", 0.01)
