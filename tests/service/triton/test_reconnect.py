"""Triton.reconnect: later calls use a new connection, running calls finish on the old one."""

import asyncio
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from service.triton.client import Triton
from service.triton.models import Model, Tensor
from tests.support.fake_triton import connected

ECHO = Model("echo", Tensor("x", "INT32", np.int32, (1,)), Tensor("y", "INT32", np.int32, (1,)), {})


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Echoes once it may answer, and records the connection of each request."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.changed = asyncio.Condition()
        self.may_answer = asyncio.Event()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        async with self.changed:
            self.peers.append(context.peer())
            self.changed.notify_all()
        await self.may_answer.wait()
        outputs = [{"name": "y"}]
        return service_pb2.ModelInferResponse(
            outputs=outputs, raw_output_contents=request.raw_input_contents
        )

    async def has_got(self, requests: int) -> None:
        """Wait until it has got that many."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: len(self.peers) == requests), 5)


async def test_reconnect_finishes_a_running_call_and_sends_the_next_over_a_new_connection() -> None:
    engine = Engine()
    async with connected(engine) as triton:
        running = asyncio.create_task(triton.infer(ECHO, np.array([[1]], np.int32)))
        await engine.has_got(1)
        triton.reconnect()
        next_call = asyncio.create_task(triton.infer(ECHO, np.array([[2]], np.int32)))
        await engine.has_got(2)
        engine.may_answer.set()
        assert (await running).output.tolist() == [[1]]
        assert (await next_call).output.tolist() == [[2]]
    assert len(set(engine.peers)) == 2


async def test_close_ends_calls_on_every_connection() -> None:
    engine = Engine()
    async with connected(engine) as triton:
        running = asyncio.create_task(triton.infer(ECHO, np.array([[1]], np.int32)))
        await engine.has_got(1)
        triton.reconnect()
        async with asyncio.timeout(5):
            await triton.close()
            outcome = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(outcome[0], Exception | asyncio.CancelledError)


async def test_models_names_a_triton_that_it_cannot_reach() -> None:
    triton = Triton("no-such-host.invalid:8001")
    with pytest.raises(EngineUnavailable, match=r"no-such-host\.invalid:8001 does not answer"):
        await triton.models()
    await triton.close()
