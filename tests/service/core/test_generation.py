"""Generation over a scripted stream of responses, in place of Triton, whose timing is not ours."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest
from channeltok import GenerateParams, NewTokens, Started, Tokens
from numpy.typing import NDArray

from service.core.generation import Event, Finished, Generation
from service.core.image_codec import ImageCodec
from service.core.rate_limit import RateLimit
from service.core.registry import Registry, ServedModels
from service.errors import BadSampling, EngineUnavailable, Overloaded, ServiceError, Stopping
from service.observability import metrics
from service.settings import Settings
from service.triton.detached import PermitLike
from service.triton.health import EngineHealth
from service.triton.models import Model
from tests.support.served_models import A, B, generator, models

Response = dict[str, NDArray[Any]]


def token(index: int, *new: int) -> Response:
    return {"token": np.array(new, np.int32), "index": np.array([index], np.int32)}


class Scripted:
    """Streams `responses`, each once `gate` is set. open: streams that have not ended."""

    def __init__(self, responses: list[Response]) -> None:
        self.responses = responses
        self.gate = asyncio.Event()
        self.gate.set()
        self.open = 0
        self.requests: list[Mapping[str, NDArray[Any]]] = []
        self.health = EngineHealth()
        self.streams = self

    async def infer(
        self, model: Model, inputs: Mapping[str, NDArray[Any]], *, permit: PermitLike | None = None
    ) -> AsyncGenerator[Response, None]:
        self.requests.append(inputs)
        self.open += 1
        try:
            for response in self.responses:
                await self.gate.wait()
                yield response
        finally:
            self.open -= 1


def scripted_generation(
    responses: list[Response], places: int = 1, more: Sequence[Model] = ()
) -> tuple[Generation, Scripted]:
    triton, settings = Scripted(responses), Settings(max_generations=places)
    served = ServedModels([*models("cat", A), generator("one", A), *more])
    registry = Registry(AsyncMock(), served)
    images, rate_limit = ImageCodec(1, settings.max_pixels), RateLimit(None, 1)
    generation = Generation(
        triton,  # type: ignore[arg-type]
        registry,
        images,
        rate_limit,
        settings,
    )
    return generation, triton


async def events(generation: Generation, **params: Any) -> list[Event]:
    async with aclosing(generation.generate(GenerateParams(**params), 10)) as stream:
        return [event async for event in stream]


async def test_generation_counts_params_out_of_range_as_failed_calls() -> None:
    generation, _ = scripted_generation([])
    counter = metrics.ERRORS.labels("generate", "BAD_SAMPLING")
    before = counter._value.get()
    with pytest.raises(BadSampling, match="seed"):
        await generation.params(seed=-1)
    assert counter._value.get() == before + 1


async def test_generation_sends_every_input_of_the_model() -> None:
    generation, triton = scripted_generation([token(0, 9)])
    await events(generation, k=1, class_name="dog", seed=2**63 - 1)
    (inputs,) = triton.requests
    assert {name: (array.dtype.name, array.shape) for name, array in inputs.items()} == {
        "class": ("int32", (1,)),
        "prefix": ("int32", (256,)),
        "length": ("int32", (1,)),
        "seed": ("int64", (1,)),
        "temperature": ("float32", (1,)),
        "final_temperature": ("float32", (1,)),
        "top_k": ("int32", (1,)),
        "top_p": ("float32", (1,)),
        "guidance": ("float32", (1,)),
    }
    values = {name: array[0].item() for name, array in inputs.items()}
    assert values == {
        "class": 1,
        "prefix": -1,
        "length": 1,
        "seed": 2**63 - 1,
        "temperature": pytest.approx(0.85),
        "final_temperature": pytest.approx(0.85),
        "top_k": 200,
        "top_p": 1,
        "guidance": 1,
    }


async def test_generation_passes_a_prefix_to_the_generator_of_its_tokens() -> None:
    more = [*models("dog", B), generator("two", B)]
    for fingerprint, name in ((A, "one"), (B, "two")):
        tokens = Tokens(np.array([7], np.uint16), fingerprint)
        for prefix in (tokens, tokens.to_bytes()):
            generation, _ = scripted_generation([token(1, 9)], more=more)
            started, *_ = await events(generation, k=2, prefix=prefix)
            assert isinstance(started, Started)
            assert started.generator == name


async def test_generation_buffers_and_merges_tokens_for_a_slow_reader() -> None:
    generation, triton = scripted_generation([token(n, n) for n in range(5)])
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


async def test_generation_yields_each_token_before_the_next() -> None:
    generation, triton = scripted_generation([token(n, n) for n in range(3)])
    async with aclosing(generation.generate(GenerateParams(k=3), 10)) as stream:
        triton.gate.clear()
        pending = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.02)
        assert not pending.done()  # nothing before the first token
        triton.gate.set()
        await asyncio.sleep(0)
        triton.gate.clear()
        assert isinstance(await pending, Started)
        assert isinstance(await asyncio.wait_for(anext(stream), 1), NewTokens)


async def test_generation_passes_several_tokens_of_one_response() -> None:
    generation, _ = scripted_generation([token(0, 7), token(1, 8, 9), token(3, 4)])
    _, *new, last = await events(generation, k=4)
    assert [
        token_id for event in new if isinstance(event, NewTokens) for token_id in event.ids
    ] == [
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
async def test_generation_never_finishes_an_invalid_stream(responses: list[Response]) -> None:
    generation, triton = scripted_generation(responses)
    with pytest.raises(EngineUnavailable):
        await events(generation, k=3)
    assert set(triton.health.suspected_at) == {"one_generate"}
    assert triton.open == 0
    generation.admission.close()
    assert await generation.admission.drain(0.1) == 0


async def test_generation_has_stopped_the_engine_when_closed() -> None:
    generation, triton = scripted_generation([token(n, n) for n in range(9)])
    stream = generation.generate(GenerateParams(k=9), 10)
    await anext(stream)
    triton.gate.clear()
    await asyncio.sleep(0)
    await stream.aclose()
    assert triton.open == 0
    triton.gate.set()
    assert await events(generation, k=9)  # the place is free


async def test_generation_refuses_at_its_limit_and_when_stopping() -> None:
    generation, triton = scripted_generation([token(0, 1)])
    triton.gate.clear()
    held = asyncio.ensure_future(events(generation, k=1))
    await asyncio.sleep(0.02)
    with pytest.raises(Overloaded, match="1 generations are running"):
        await events(generation, k=1)
    generation.admission.close()
    with pytest.raises(Stopping):
        await events(generation, k=1)
    triton.gate.set()
    assert isinstance((await held)[-1], Finished)


async def test_generation_ends_at_the_deadline() -> None:
    generation, triton = scripted_generation([token(0, 1)])
    triton.gate.clear()
    with pytest.raises(ServiceError) as caught:
        async with aclosing(generation.generate(GenerateParams(k=1), 0.05)) as stream:
            await anext(stream)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert triton.open == 0
