"""A stand-in for Triton, for what a real one does not do on demand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from tritonclient.grpc import service_pb2_grpc

from service.triton.client import Triton


@asynccontextmanager
async def asked(engine: service_pb2_grpc.GRPCInferenceServiceServicer) -> AsyncIterator[Triton]:
    """Our client of Triton, connected to `engine` on a port of its own."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    triton = Triton(f"127.0.0.1:{port}")
    yield triton
    await triton.close()
    await server.stop(0)
