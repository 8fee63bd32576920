"""grpc.aio's server, which a call with an undecodable path does not end.

grpc.aio 1.85 decodes the path of every call to a method that was not registered, where nothing
catches the error: a single call whose path is not UTF-8 ends the server for good.
Here all methods are registered, so that gRPC's core compares their paths as bytes. Calls to other
methods all arrive under the name UNKNOWN, and their paths are never decoded.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc

UNKNOWN = "/unknown"


def make_server(options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Server:
    """A server that serves registered methods; generic handlers see the others as UNKNOWN."""
    cygrpc.AioServer = _Server  # grpc.aio creates the server under this name
    server = grpc.aio.server(options=options)
    # None: no method of its own, so that generic handlers are asked.
    server._server.add_registered_method_handlers({UNKNOWN: None})
    return server


class _Server(cygrpc.AioServer):  # type: ignore[misc]
    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        """The next call to a registered method, or (None) to any other one."""
        loop = asyncio.get_running_loop()
        if method is None:  # its path would be decoded
            return loop.create_future()
        if method == UNKNOWN.encode():
            return loop.create_task(self._request_call())
        future: asyncio.Future[Any] = super()._make_request_call_future(method)
        return future
