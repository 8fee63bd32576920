"""A Triton server whose faults and timing a test can set, and a permit that records its work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from service.triton.client import Triton


class RecordingPermit:
    """Records the work that a real permit would be held for."""

    def __init__(self, bulk: bool = False) -> None:
        self.bulk = bulk
        self.work: list[asyncio.Future[Any]] = []

    def hold_until(self, work: asyncio.Future[Any]) -> None:
        self.work.append(work)


@asynccontextmanager
async def connected(
    engine: service_pb2_grpc.GRPCInferenceServiceServicer, **seconds: float
) -> AsyncIterator[Triton]:
    """Serve `engine` on a port of its own and yield our client of it. seconds: see Triton."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    triton = Triton(f"127.0.0.1:{port}", **seconds)
    yield triton
    await triton.close()
    await server.stop(0)
