"""grpc.health.v1. Check answers at once; Watch is limited in number and age.

Watchers share one event, so none of them can hold up or blind the others: a watcher that is not
read misses states in between, never the latest one.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.errors import Overloaded, Stopping

CHECK = f"/{health.SERVICE_NAME}/Check"
WATCHES_OF_CONNECTION = 4
RETRY_SECONDS = 10.0
_JITTER = 0.1  # so that watchers that came together do not come back together
_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Methods may raise any ServiceError: service/grpc/entrance.py turns it into a status."""

    def __init__(self, max_watches: int, watch_seconds: float, send_seconds: float) -> None:
        """watch_seconds: age at which a Watch ends. send_seconds: for a client to take a state."""
        self._max_watches = max_watches
        self._watch_seconds = watch_seconds
        self._send_seconds = send_seconds
        self._statuses: dict[str, int] = {}
        self._watches: Counter[str] = Counter()  # by connection
        self._changed = asyncio.Event()  # another one after each change

    def set(self, service: str, status: int) -> None:
        """Set the status of a service, a health_pb2.HealthCheckResponse.ServingStatus."""
        self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service; '' is all of them")
        return _Status(status=self._statuses[request.service])

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        seconds = self._watch_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
        with self._place(context.peer()):
            try:
                async with asyncio.timeout(seconds):
                    await self._write_states(request.service, context)
            except TimeoutError:
                raise Stopping("this Watch has reached its age: start another one") from None

    async def _write_states(self, service: str, context: grpc.aio.ServicerContext) -> None:
        written = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, _Status.SERVICE_UNKNOWN)
            if status == written:
                await changed.wait()
                continue
            async with asyncio.timeout(self._send_seconds):
                await context.write(_Status(status=status))
            written = status

    @contextmanager
    def _place(self, connection: str) -> Iterator[None]:
        """Raises Overloaded."""
        if self._watches.total() >= self._max_watches:
            raise Overloaded(
                f"{self._max_watches:,} Watches are in progress, the limit", RETRY_SECONDS
            )
        if self._watches[connection] >= WATCHES_OF_CONNECTION:
            raise Overloaded(
                f"this connection has {WATCHES_OF_CONNECTION} Watches, the limit", RETRY_SECONDS
            )
        self._watches[connection] += 1
        try:
            yield
        finally:
            self._watches[connection] -= 1
            if not self._watches[connection]:
                del self._watches[connection]
