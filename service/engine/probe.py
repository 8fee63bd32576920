"""A real, small inference through a Triton model: the only thing that shows that its engine works."""

import asyncio
import math
import time
from collections import defaultdict
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, EngineUnavailable, Overloaded, ServiceError
from service.triton.client import Triton
from service.triton.models import Model

TIMEOUT = 10.0  # seconds, or `engine_timeout_seconds` where that is less; under load a probe waits in the engine's queue like everybody
LOOKS = 10
SHARE = (
    0.01  # of one engine's time that questions may take: an image of the full size takes seconds
)
PROBE_TOKENS = 4
# An engine gives the same answer to the same question. A GPU may choose another kernel for another batch, and differ by a little.
SAME_IDS = 0.9  # share of the tokens
SAME_PIXELS = 4.0  # mean difference, of 255


class Probe:
    """Asks, unless callers' answers show already that the model works: then only one look in `LOOKS` costs the engine time. And an engine
    that is slow is asked less often, for `SHARE` of its time at most, until it fails somebody.

    Remembers what each model answered first: an engine that answers something else later computes rubbish (NaN, say).
    """

    def __init__(self, triton: Triton, engine_timeout_seconds: float, probe_seconds: float) -> None:
        self._triton = triton
        self._engine_timeout = engine_timeout_seconds
        self._timeout = min(TIMEOUT, engine_timeout_seconds)
        self._probe_seconds = probe_seconds
        self._first: dict[str, NDArray[Any]] = {}
        self._spared: dict[str, int] = defaultdict(int)
        self._fastest: dict[
            str, float
        ] = {}  # seconds of its quickest answer: the first of all is slow, and so are those under load
        self._asked: dict[str, float] = {}  # when it answered the question
        self._own: dict[str, int] = defaultdict(
            int
        )  # answers that the model had given at the last look

    async def look(self, model: Model) -> ServiceError | None:
        """What is wrong with the model, None where nothing is. One that hangs or answers rubbish becomes a suspect of Triton's client."""
        recent = self._triton.health.silent_seconds(model) < self._probe_seconds
        callers_got_answers = recent and self._triton.health.count(model) > self._own[model.name]
        if callers_got_answers and self._spared[model.name] < LOOKS - 1:
            self._spared[model.name] += 1
            self._own[model.name] = self._triton.health.count(model)
            return None
        if self._asked_lately(model):
            return None
        self._spared[model.name] = 0
        try:
            return await self._ask(model)
        finally:
            self._own[model.name] = self._triton.health.count(model)

    async def look_at_generator(self, model: Model) -> ServiceError | None:
        """As `look`. While callers wait for tokens it is asked nothing: whether they come says it all, and the question would wait behind
        whole images."""
        started = time.perf_counter()
        if self._triton.streams.has_waiters(model):
            if self._triton.health.silent_seconds(model) <= self._engine_timeout:
                return None
            # Since when, so that what hung before a repair is no reason for the next.
            self._triton.health.suspect(model.name, started - self._engine_timeout)
            self._triton.streams.cancel_all(model.name)
            return DeadlineExceeded("the engine makes no tokens")
        try:
            async with asyncio.timeout(self._timeout):
                async with aclosing(
                    self._triton.streams.infer(model, _first_tokens(model))
                ) as responses:
                    output = np.concatenate([response["token"] async for response in responses])
        except Overloaded:
            return None
        except TimeoutError:
            self._suspect_if_silent(model, started)
            return DeadlineExceeded("the engine makes no tokens")
        except ServiceError as error:
            return error
        if not np.array_equal(output, self._first.setdefault(model.name, output)):
            self._triton.health.suspect(model.name, started)
            return EngineUnavailable("the engine answers a question otherwise than at first")
        return None

    async def _ask(self, model: Model) -> ServiceError | None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                inference = await self._triton.infer(model, _question(model)[None])
        except Overloaded:
            return None  # load, not a fault: the engine is at work
        except TimeoutError:
            self._suspect_if_silent(model, started)
            return DeadlineExceeded("the engine does not answer")
        except ServiceError as error:
            return error
        output = inference.output
        if not _alike(output, self._first.setdefault(model.name, output)):
            self._triton.health.suspect(model.name, started)
            return EngineUnavailable("the engine answers a question otherwise than at first")
        self._asked[model.name] = time.perf_counter()
        self._fastest[model.name] = min(
            inference.compute_seconds, self._fastest.get(model.name, math.inf)
        )
        return None

    def _suspect_if_silent(self, model: Model, asked: float) -> None:
        if self._triton.health.silent_seconds(model) >= self._engine_timeout:
            self._triton.health.suspect(model.name, asked)

    def _asked_lately(self, model: Model) -> bool:
        """As lately as `SHARE` forbids to ask again, and nobody was failed since."""
        asked = self._asked.get(model.name, -math.inf)
        return (
            asked > self._triton.health.failed_at(model)
            and time.perf_counter() < asked + self._fastest.get(model.name, 0.0) / SHARE
        )


def _question(model: Model) -> NDArray[Any]:
    """An image of slopes for an encoder, every 257th id, of those there are, for a decoder."""
    if model.input.dtype is np.uint8:
        height, width, _ = model.input.shape
        y, x = np.mgrid[:height, :width]
        return np.stack([y % 256, x % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    return (np.arange(model.input.shape[0]) * 257 % model.vocab_size).astype(model.input.dtype)


def _first_tokens(model: Model) -> dict[str, NDArray[Any]]:
    """The question to a generator: its likeliest first tokens, of no class."""
    channels = int(model.parameters["channels"])
    return {
        "class": np.array([-1], np.int32),
        "prefix": np.full(channels, -1, np.int32),
        "length": np.array([min(PROBE_TOKENS, channels)], np.int32),
        "seed": np.array([0], np.int64),
        "temperature": np.array([0], np.float32),
        "top_k": np.array([0], np.int32),
    }


def _alike(output: NDArray[Any], first: NDArray[Any]) -> bool:
    if output.dtype == np.uint8:
        return bool(np.abs(output.astype(np.int16) - first).mean() <= SAME_PIXELS)
    return bool((output == first).mean() >= SAME_IDS)
