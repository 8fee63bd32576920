"""Probe: a small real inference through a Triton model, which alone shows that its engine works."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, EngineUnavailable, Overloaded, ServiceError
from service.triton.client import Triton
from service.triton.models import Model

# Seconds that a probe may take: so many, or SLOW times its quickest, and never more than
# `engine_timeout_seconds`. Under load a probe waits in the engine's queue like every request.
TIMEOUT = 10.0
SLOW = 4
PROBE_EVERY = 10  # checks, while callers get answers
MAX_ENGINE_SHARE = 0.01  # of an engine's time; an image of the full size takes seconds
PROBE_TOKENS = 4
# An engine answers the same input alike. A GPU may choose another kernel for another batch, and
# differ by a little.
MIN_EQUAL_IDS = 0.9  # share of the tokens
MAX_PIXEL_DIFFERENCE = 4.0  # mean, of 255


class Probe:
    """Checks models, at little cost to callers.

    While callers get answers only one check in `PROBE_EVERY` costs the engine time. A slow engine
    is probed less often, for `max_engine_share` of its time at most, until it fails a caller. One
    that has not answered yet gets twice the time at each check: an image of a large model may take
    longer than TIMEOUT.

    The first output of each model is its reference: an engine that answers the same input
    differently later computes wrongly (NaN, say). An engine that hangs or answers wrongly is
    reported to `triton.health` as suspect.
    """

    def __init__(
        self,
        triton: Triton,
        engine_timeout_seconds: float,
        probe_seconds: float,
        *,
        max_engine_share: float = MAX_ENGINE_SHARE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._triton = triton
        self._engine_timeout = engine_timeout_seconds
        self._probe_seconds = probe_seconds
        self._max_engine_share = max_engine_share
        self._clock = clock
        self._reference_output: dict[str, NDArray[Any]] = {}
        self._skipped: dict[str, int] = defaultdict(int)
        # Seconds of the quickest probe: the very first is slow, and so are those under load.
        self._fastest: dict[str, float] = {}
        # Seconds for models that have not answered yet.
        self._first_timeout: dict[str, float] = defaultdict(
            lambda: min(TIMEOUT, engine_timeout_seconds)
        )
        self._last_probe: dict[str, float] = {}  # when the model last passed an inference
        self._seen_count: dict[str, int] = defaultdict(int)  # answers counted at the last check

    async def check(self, model: Model) -> ServiceError | None:
        """What is wrong with an encoder or decoder; None when it works."""
        recent = self._triton.health.silent_seconds(model) < self._probe_seconds
        callers_got_answers = (
            recent and self._triton.health.count(model) > self._seen_count[model.name]
        )
        if callers_got_answers and self._skipped[model.name] < PROBE_EVERY - 1:
            self._skipped[model.name] += 1
            self._seen_count[model.name] = self._triton.health.count(model)
            return None
        if self._probed_recently(model):
            return None
        self._skipped[model.name] = 0
        try:
            return await self._infer(model)
        finally:
            self._seen_count[model.name] = self._triton.health.count(model)

    async def check_generator(self, model: Model) -> ServiceError | None:
        """What is wrong with a generator; None when it works.

        While callers wait for tokens, their tokens are the check: a probe would queue behind whole
        images.
        """
        started = self._clock()
        if self._triton.streams.has_waiters(model):
            if self._triton.health.silent_seconds(model) <= self._engine_timeout:
                return None
            # Dated back to the silence, so that one silence does not cause two repairs.
            self._triton.health.suspect(model.name, started - self._engine_timeout)
            self._triton.streams.cancel_all(model.name)
            return DeadlineExceeded("the engine makes no tokens")
        try:
            async with asyncio.timeout(min(TIMEOUT, self._engine_timeout)):
                async with aclosing(
                    self._triton.streams.infer(model, _generator_input(model))
                ) as responses:
                    output = np.concatenate([response["token"] async for response in responses])
        except Overloaded:
            return None
        except TimeoutError:
            self._suspect_if_silent(model, started)
            return DeadlineExceeded("the engine makes no tokens")
        except ServiceError as error:
            return error
        if not np.array_equal(output, self._reference_output.setdefault(model.name, output)):
            return self._wrong_output(model, started)
        return None

    async def _infer(self, model: Model) -> ServiceError | None:
        started = self._clock()
        try:
            async with asyncio.timeout(self._timeout(model)):
                inference = await self._triton.infer(model, _probe_input(model)[None])
        except Overloaded:
            return None  # the engine is at work
        except TimeoutError:
            doubled = 2 * self._first_timeout[model.name]
            self._first_timeout[model.name] = min(doubled, self._engine_timeout)
            self._suspect_if_silent(model, started)
            return DeadlineExceeded("the engine does not answer")
        except ServiceError as error:
            return error
        output = inference.output
        if not _similar(output, self._reference_output.setdefault(model.name, output)):
            return self._wrong_output(model, started)
        self._last_probe[model.name] = self._clock()
        self._fastest[model.name] = min(
            inference.compute_seconds, self._fastest.get(model.name, math.inf)
        )
        return None

    def _timeout(self, model: Model) -> float:
        """Seconds that the next probe of a model may take."""
        if model.name not in self._fastest:
            return self._first_timeout[model.name]
        return min(max(TIMEOUT, SLOW * self._fastest[model.name]), self._engine_timeout)

    def _suspect_if_silent(self, model: Model, sent: float) -> None:
        if self._triton.health.silent_seconds(model) >= self._engine_timeout:
            self._triton.health.suspect(model.name, sent)

    def _wrong_output(self, model: Model, sent: float) -> EngineUnavailable:
        self._triton.health.suspect(model.name, sent)
        return EngineUnavailable("the engine's output for the same input has changed")

    def _probed_recently(self, model: Model) -> bool:
        """Whether another probe would exceed the engine's share, and no caller failed since."""
        last = self._last_probe.get(model.name, -math.inf)
        pause = self._fastest.get(model.name, 0.0) / self._max_engine_share
        return last > self._triton.health.failed_at(model) and self._clock() < last + pause


def _probe_input(model: Model) -> NDArray[Any]:
    """An image of slopes for an encoder, every 257th id (modulo the vocabulary) for a decoder."""
    if model.input.dtype is np.uint8:
        height, width, _ = model.input.shape
        y, x = np.mgrid[:height, :width]
        return np.stack([y % 256, x % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    return (np.arange(model.input.shape[0]) * 257 % model.vocab_size).astype(model.input.dtype)


def _generator_input(model: Model) -> dict[str, NDArray[Any]]:
    """Asks for the likeliest first tokens, of no class and no text."""
    max_tokens = int(model.parameters["channels"])
    takes_text = model.parameters.get("prompt_bytes", "0") != "0"
    return {
        **(
            {"prompt": np.zeros(0, np.uint8)} if takes_text else {"class": np.array([-1], np.int32)}
        ),
        "prefix": np.full(max_tokens, -1, np.int32),
        "length": np.array([min(PROBE_TOKENS, max_tokens)], np.int32),
        "seed": np.array([0], np.int64),
        "temperature": np.array([0], np.float32),
        "final_temperature": np.array([0], np.float32),
        "top_k": np.array([0], np.int32),
        "top_p": np.array([1], np.float32),
        "guidance": np.array([1], np.float32),
    }


def _similar(output: NDArray[Any], reference: NDArray[Any]) -> bool:
    if output.dtype == np.uint8:
        return bool(np.abs(output.astype(np.int16) - reference).mean() <= MAX_PIXEL_DIFFERENCE)
    return bool((output == reference).mean() >= MIN_EQUAL_IDS)
