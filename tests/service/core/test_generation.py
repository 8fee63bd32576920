"""What generation does with what Triton streams; Triton itself, whose timing nobody can set, is replaced by a script of responses."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest
from channeltok import GenerateParams, NewTokens, Started
from numpy.typing import NDArray

from service.core.generation import Event, Finished, Generation
from service.core.image_codec import ImageCodec
from service.core.rate_limit import RateLimit
from service.core.registry import Registry, ServedModels
from service.errors import EngineUnavailable, Overloaded, ServiceError, Stopping
from service.settings import Settings
from service.triton.detached import UnderWay
from service.triton.health import EngineHealth
from service.triton.models import Model
from tests.service.core.test_registry import A, generator, models

Response = dict[str, NDArray[Any]]


def token(index: int, *new: int) -> Response:
    return {"token": np.array(new, np.int32), "index": np.array([index], np.int32)}


class Scripted:
    """Streams `responses`, each when it is let."""

    def __init__(self, responses: list[Response]) -> None:
        self.responses = responses
        self.let = asyncio.Event()
        self.let.set()
        self.open = 0
        self.asked: list[Mapping[str, NDArray[Any]]] = []
        self.health = EngineHealth()
        self.streams = self

    async def infer(
        self, model: Model, inputs: Mapping[str, NDArray[Any]], *, under_way: UnderWay
    ) -> AsyncGenerator[Response, None]:
        self.asked.append(inputs)
        self.open += 1
        try:
            for response in self.responses:
                await self.let.wait()
                yield response
        finally:
            self.open -= 1


def generating(responses: list[Response], places: int = 1) -> tuple[Generation, Scripted]:
    triton, settings = Scripted(responses), Settings(max_generations=places)
    registry = Registry(AsyncMock(), ServedModels([*models("cat", A), generator("one", A)]))
    images, rate_limit = ImageCodec(1, settings.max_pixels), RateLimit(None, 1)
    generation = Generation(triton, registry, images, rate_limit, settings)  # type: ignore[arg-type]
    return generation, triton


async def events(generation: Generation, **wanted: Any) -> list[Event]:
    async with aclosing(generation.generate(GenerateParams(**wanted), 10)) as stream:
        return [event async for event in stream]


async def test_what_the_model_is_asked() -> None:
    generation, triton = generating([token(0, 9)])
    await events(generation, k=1, class_name="dog", seed=2**63 - 1)
    (inputs,) = triton.asked
    assert {name: (array.dtype.name, array.shape) for name, array in inputs.items()} == {
        "class": ("int32", (1,)),
        "prefix": ("int32", (256,)),
        "length": ("int32", (1,)),
        "seed": ("int64", (1,)),
        "temperature": ("float32", (1,)),
        "top_k": ("int32", (1,)),
    }
    told = {name: array[0].item() for name, array in inputs.items()}
    assert told == {
        "class": 1,
        "prefix": -1,
        "length": 1,
        "seed": 2**63 - 1,
        "temperature": pytest.approx(0.85),
        "top_k": 200,
    }


async def test_a_slow_reader_holds_no_place_and_gets_together_what_waited() -> None:
    generation, triton = generating([token(n, n) for n in range(5)])
    async with aclosing(generation.generate(GenerateParams(k=5), 10)) as stream:
        first = await anext(stream)
        assert isinstance(first, Started)
        await asyncio.sleep(0.05)
        assert triton.open == 0
        assert [type(event) for event in await events(generation, k=5)] == [
            Started,
            NewTokens,
            Finished,
        ]
        rest = [event async for event in stream]
    assert rest[0] == NewTokens(0, (0, 1, 2, 3, 4))
    assert isinstance(rest[1], Finished)
    assert rest[1].tokens.ids.tolist() == [0, 1, 2, 3, 4]


async def test_no_token_waits_for_the_next() -> None:
    generation, triton = generating([token(n, n) for n in range(3)])
    async with aclosing(generation.generate(GenerateParams(k=3), 10)) as stream:
        triton.let.clear()
        pending = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.02)
        assert not pending.done()  # nothing before the first token
        triton.let.set()
        await asyncio.sleep(0)
        triton.let.clear()
        assert isinstance(await pending, Started)
        assert isinstance(await asyncio.wait_for(anext(stream), 1), NewTokens)


async def test_tokens_that_come_together_go_together() -> None:
    generation, _ = generating([token(0, 7), token(1, 8, 9), token(3, 4)])
    _, *new, last = await events(generation, k=4)
    assert [one for event in new if isinstance(event, NewTokens) for one in event.ids] == [
        7,
        8,
        9,
        4,
    ]
    assert isinstance(last, Finished)
    assert last.tokens.ids.tolist() == [7, 8, 9, 4]


@pytest.mark.parametrize(
    "responses",
    [
        [token(0, 65536)],
        [token(0, -1)],
        [token(1, 5)],
        [token(0, 5), token(0, 5)],
        [token(0, 5)],
        [token(0, 5), token(1, 5), token(2, 5), token(3, 5)],
        [token(0, 5), token(1, 5, 5, 5)],
        [token(0, 5, 65536, 5)],
        [token(0)],
        [{"token": np.array([5], np.int32)}],
        [{"index": np.array([0], np.int32)}],
        [],
    ],
    ids=[
        "too large",
        "negative",
        "not the first",
        "twice",
        "too few",
        "too many",
        "too many at once",
        "too large among others",
        "none",
        "no index",
        "no token",
        "nothing",
    ],
)
async def test_what_is_no_sequence_is_never_finished(responses: list[Response]) -> None:
    generation, triton = generating(responses)
    with pytest.raises(EngineUnavailable):
        await events(generation, k=3)
    assert set(triton.health.suspected_at) == {"one_generate"}
    assert triton.open == 0
    generation.admission.close()
    assert await generation.admission.idle(0.1) == 0


async def test_closing_stops_the_engine_before_it_returns() -> None:
    generation, triton = generating([token(n, n) for n in range(9)])
    stream = generation.generate(GenerateParams(k=9), 10)
    await anext(stream)
    triton.let.clear()
    await asyncio.sleep(0)
    await stream.aclose()
    assert triton.open == 0
    triton.let.set()
    assert await events(generation, k=9)  # the place is free


async def test_the_last_place_is_not_waited_for_and_a_stop_is_told() -> None:
    generation, triton = generating([token(0, 1)])
    triton.let.clear()
    held = asyncio.ensure_future(events(generation, k=1))
    await asyncio.sleep(0.02)
    with pytest.raises(Overloaded, match="1 generations are in work"):
        await events(generation, k=1)
    generation.admission.close()
    with pytest.raises(Stopping):
        await events(generation, k=1)
    triton.let.set()
    assert isinstance((await held)[-1], Finished)


async def test_the_deadline() -> None:
    generation, triton = generating([token(0, 1)])
    triton.let.clear()
    with pytest.raises(ServiceError) as caught:
        async with aclosing(generation.generate(GenerateParams(k=1), 0.05)) as stream:
            await anext(stream)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert triton.open == 0
