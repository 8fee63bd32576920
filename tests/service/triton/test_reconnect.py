"""A new connection to Triton: later calls use it, and calls under way finish on the old one."""

import asyncio
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from service.triton.client import Triton
from service.triton.models import Model, Tensor
from tests.support.fake_triton import asked

ECHO = Model("echo", Tensor("x", "INT32", np.int32, (1,)), Tensor("y", "INT32", np.int32, (1,)), {})


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Echoes when it may, and remembers over which connection each request came."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.came = asyncio.Condition()
        self.may_answer = asyncio.Event()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        async with self.came:
            self.peers.append(context.peer())
            self.came.notify_all()
        await self.may_answer.wait()
        outputs = [{"name": "y"}]
        return service_pb2.ModelInferResponse(
            outputs=outputs, raw_output_contents=request.raw_input_contents
        )

    async def has(self, requests: int) -> None:
        """Wait until so many have come."""
        async with self.came:
            await asyncio.wait_for(self.came.wait_for(lambda: len(self.peers) == requests), 5)


async def test_a_call_under_way_finishes_and_the_next_one_uses_the_new_connection() -> None:
    engine = Engine()
    async with asked(engine) as triton:
        under_way = asyncio.create_task(triton.infer(ECHO, np.array([[1]], np.int32)))
        await engine.has(1)
        triton.reconnect()
        next_call = asyncio.create_task(triton.infer(ECHO, np.array([[2]], np.int32)))
        await engine.has(2)
        engine.may_answer.set()
        assert (await under_way).output.tolist() == [[1]]
        assert (await next_call).output.tolist() == [[2]]
    assert len(set(engine.peers)) == 2


async def test_closing_ends_calls_on_every_connection() -> None:
    engine = Engine()
    async with asked(engine) as triton:
        left = asyncio.create_task(triton.infer(ECHO, np.array([[1]], np.int32)))
        await engine.has(1)
        triton.reconnect()
        async with asyncio.timeout(5):
            await triton.close()
            outcome = await asyncio.gather(left, return_exceptions=True)
    assert isinstance(outcome[0], Exception | asyncio.CancelledError)


async def test_a_triton_that_cannot_be_reached_is_named_in_the_error() -> None:
    triton = Triton("no-such-host.invalid:8001")
    with pytest.raises(EngineUnavailable, match=r"no-such-host\.invalid:8001 does not answer"):
        await triton.models()
    await triton.close()
