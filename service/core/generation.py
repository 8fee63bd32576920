"""Generate, once, for both protocols: new tokens by a generator in Triton, and the images that they make on the way.

    request --> generator, sampling, prefix --> place --> Triton's stream --> tokens ----------------> events
                                                                               └─ at each preview's k: decode ─┘

A caller who reads slowly holds no place: what is made waits for them here, and it is little (a few hundred ids, a few images).
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from channeltok.tokens import TokenBytesError, Tokens
from numpy.typing import NDArray

from service.core.admission import Admission, Permit, Priority
from service.core.call_record import CallRecord, Stages
from service.core.image_codec import ImageCodec
from service.core.prefixes import prefixes
from service.core.rate_limit import RateLimit
from service.core.registry import Registry, ServedGenerator
from service.errors import (
    BadK,
    BadRequest,
    BadSampling,
    BadTokens,
    DeadlineExceeded,
    EngineUnavailable,
    FingerprintMismatch,
)
from service.observability import metrics
from service.settings import Settings
from service.triton.client import Triton
from service.triton.health import RETRY_AFTER_SECONDS

TEMPERATURE = 0.85
TOP_K = 200
MAX_TEMPERATURE = 10.0
MAX_PREVIEWS = 8
MAX_SEED = 2**63 - 1
_DRAWN_SEED_BITS = 32  # a seed that every JSON reader keeps exactly
_RPC = "generate"


@dataclass(frozen=True)
class GenerateRequest:
    """What a caller asks for; see GenerateRequest in the contract. generator, class_name: empty or None for none named.

    prefix: tokens or token bytes, empty for none. previews: budgets in any order. preview_format: "JPEG", "PNG" or "WEBP".
    """

    generator: str | None = None
    class_name: str | None = None
    prefix: Tokens | bytes = b""
    k: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    previews: Sequence[int] = ()
    preview_format: str = "PNG"


@dataclass(frozen=True)
class Started:
    """The first event."""

    generator: ServedGenerator
    seed: int
    k: int


@dataclass(frozen=True)
class NewTokens:
    """ids: those that follow each other from place `index` on."""

    index: int
    ids: list[int]


@dataclass(frozen=True)
class Preview:
    """image: what decode gives of the first k tokens."""

    k: int
    image: bytes


@dataclass(frozen=True)
class Finished:
    """The last event. tokens: the whole sequence."""

    generator: ServedGenerator
    tokens: Tokens
    stages: Stages


Event = Started | NewTokens | Preview | Finished


@dataclass(frozen=True)
class _Task:
    """What was wanted, checked and complete. prefix: uint16 [j], j from 0 to k. previews: ascending."""

    generator: ServedGenerator
    class_number: int
    prefix: NDArray[np.uint16]
    k: int
    seed: int
    temperature: float
    top_k: int
    previews: list[int]
    preview_format: str

    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """As the Triton model takes them."""
        return {
            "class": np.array([self.class_number], np.int32),
            "prefix": prefixes(self.prefix, [len(self.prefix)], self.generator.max_tokens)[0],
            "length": np.array([self.k], np.int32),
            "seed": np.array([self.seed], np.int64),
            "temperature": np.array([self.temperature], np.float32),
            "top_k": np.array([self.top_k], np.int32),
        }


class _EventBuffer:
    """Events that were made and not yet read. Tokens that wait together leave together."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, NewTokens) and isinstance(last, NewTokens):
            self._events[-1] = NewTokens(last.index, [*last.ids, *event.ids])
        else:
            self._events.append(event)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def get(self) -> Event | None:
        """The next, in order; None once it is closed and empty."""
        while not self._events and not self._closed:
            self._news.clear()
            await self._news.wait()
        return self._events.popleft() if self._events else None


class Generation:
    """The one thing it does. It has places of its own: a long generation takes none from single images."""

    def __init__(
        self,
        triton: Triton,
        registry: Registry,
        images: ImageCodec,
        rate_limit: RateLimit,
        settings: Settings,
    ) -> None:
        self._triton = triton
        self._registry = registry
        self._images = images
        self._rate_limit = rate_limit
        self._slow_call_seconds = settings.slow_call_seconds
        self.admission = Admission(
            settings.generation_places, 0, 0.0, "generations", metrics.MAX_GENERATIONS
        )

    @property
    def generators(self) -> list[ServedGenerator]:
        """Those that calls go to, the default one first."""
        return self._registry.current.current_generators

    async def generate(
        self, wanted: GenerateRequest, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Started, then NewTokens and Previews as they are made, and Finished. Nothing comes before the first token is made.

        timeout: seconds left to the caller's deadline. Iterate within `contextlib.aclosing`: closing stops the engine at once.
        Raises ServiceError, as the table in service/errors.py says.
        """
        outbox = _EventBuffer()
        making = asyncio.create_task(self._make(wanted, timeout, outbox))
        making.add_done_callback(lambda _: outbox.close())
        try:
            while (event := await outbox.get()) is not None:
                yield event
            await making
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)  # the engine has been told to stop

    async def _make(
        self, wanted: GenerateRequest, timeout: float | None, outbox: _EventBuffer
    ) -> None:
        with CallRecord(
            _RPC, self._slow_call_seconds, frozenset({"tokens", "previews"}), timeout
        ) as call:
            try:
                async with asyncio.timeout(timeout):
                    await self._rate_limit.take(wait=False)
                    task = self._checked(wanted)
                    call.set_subject(task.generator.tokenizer.name, task.k)
                    async with self.admission.acquire(Priority.INTERACTIVE) as permit:
                        call.end_stage("admission")
                        with metrics.GENERATIONS.track_inprogress():
                            await self._run(task, call, permit, outbox)
            except TimeoutError as error:
                raise DeadlineExceeded("the deadline passed before the last token") from error

    async def _run(
        self, task: _Task, call: CallRecord, permit: Permit, outbox: _EventBuffer
    ) -> None:
        tokenizer = task.generator.tokenizer
        ids = task.prefix.tolist()
        to_show: asyncio.Queue[Tokens] = asyncio.Queue()
        showing = asyncio.create_task(self._show(task, permit, to_show, outbox))
        try:
            async with aclosing(self._new_ids(task, call, permit)) as new_ids:
                shown = 0
                async for new in new_ids:
                    if len(ids) == len(task.prefix):
                        outbox.put(Started(task.generator, task.seed, task.k))
                    if new:
                        outbox.put(NewTokens(len(ids), new))
                        ids += new
                    while shown < len(task.previews) and task.previews[shown] <= len(ids):
                        to_show.put_nowait(
                            Tokens(ids[: task.previews[shown]], tokenizer.fingerprint)
                        )
                        shown += 1
            call.end_stage("tokens")
            await showing
            call.end_stage("previews")
        finally:
            showing.cancel()
        outbox.put(Finished(task.generator, Tokens(ids, tokenizer.fingerprint), call.stages))

    async def _new_ids(
        self, task: _Task, call: CallRecord, permit: Permit
    ) -> AsyncGenerator[list[int], None]:
        """The ids after the prefix, as they come; a single empty list where there are none to make.

        Raises EngineUnavailable when the engine answers anything but these.
        """
        due = len(task.prefix)
        if due == task.k:
            yield []
            return
        name, model, asked = task.generator.name, task.generator.model, time.perf_counter()
        latest = call.started
        async with aclosing(
            self._triton.streams.infer(model, task.inputs(), under_way=permit.hold_until)
        ) as responses:
            async for response in responses:
                index, new = (
                    response[output].tolist() if output in response else []
                    for output in ("index", "token")
                )
                valid = all(0 <= one < task.generator.tokenizer.vocab_size for one in new)
                if index != [due] or not new or len(new) > task.k - due or not valid:
                    break
                now = time.perf_counter()
                if due == len(task.prefix):
                    metrics.TIME_TO_FIRST_TOKEN.labels(name).observe(now - latest)
                    call.end_stage("first_token")
                else:
                    for _ in new:
                        metrics.INTER_TOKEN_LATENCY.labels(name).observe((now - latest) / len(new))
                latest = now
                metrics.TOKENS.labels(_RPC).inc(len(new))
                due += len(new)
                yield new
            else:
                if due == task.k:
                    return
        self._triton.health.suspect(model.name, asked)
        raise EngineUnavailable(
            "the engine answered what are no tokens: try again", RETRY_AFTER_SECONDS
        )

    async def _show(
        self, task: _Task, permit: Permit, to_show: asyncio.Queue[Tokens], outbox: _EventBuffer
    ) -> None:
        for _ in task.previews:
            tokens = await to_show.get()
            await self._rate_limit.take(wait=True)
            decoder, padded = task.generator.tokenizer.decoder_input(tokens)
            inference = await self._triton.infer(decoder, padded, under_way=permit.hold_until)
            image = await self._images.encode(inference.output[0], task.preview_format)
            metrics.IMAGE_BYTES.labels(_RPC).inc(len(image))
            outbox.put(Preview(tokens.k, image))

    def _checked(self, wanted: GenerateRequest) -> _Task:
        temperature = TEMPERATURE if wanted.temperature is None else wanted.temperature
        if not 0 <= temperature <= MAX_TEMPERATURE:  # NaN is neither
            raise BadSampling(f"temperature is {temperature:g}; it is 0 to {MAX_TEMPERATURE:g}")
        seed = random.getrandbits(_DRAWN_SEED_BITS) if wanted.seed is None else wanted.seed
        if not 0 <= seed <= MAX_SEED:
            raise BadSampling(f"seed is {seed}; it is 0 to {MAX_SEED}")
        generator = self._registry.current.generator(wanted.generator)
        vocab_size = generator.tokenizer.vocab_size
        top_k = min(TOP_K, vocab_size) if wanted.top_k is None else wanted.top_k
        if not 0 <= top_k <= vocab_size:
            raise BadSampling(
                f"top_k is {top_k}; generator {generator.name!r} takes 0 (all) to {vocab_size}"
            )
        k = generator.max_tokens if wanted.k is None else wanted.k
        if not 1 <= k <= generator.max_tokens:
            raise BadK(f"k is {k}; generator {generator.name!r} takes 1 to {generator.max_tokens}")
        previews = sorted(set(wanted.previews))
        if len(previews) > MAX_PREVIEWS:
            raise BadRequest(
                f"{len(previews)} previews are asked for; at most {MAX_PREVIEWS} are made"
            )
        if wrong := [one for one in previews if not 1 <= one <= k]:
            raise BadK(f"a preview is asked for at {wrong[0]}; with k = {k} they are at 1 to {k}")
        return _Task(
            generator,
            generator.class_number(wanted.class_name),
            _prefix(wanted.prefix, generator, k),
            k,
            seed,
            temperature,
            top_k,
            previews,
            wanted.preview_format,
        )


def _prefix(tokens: Tokens | bytes, generator: ServedGenerator, k: int) -> NDArray[np.uint16]:
    """The ids, uint16 [j], j from 0 to k. Raises BadTokens, FingerprintMismatch."""
    if not tokens:
        return np.zeros(0, np.uint16)
    if isinstance(tokens, bytes):
        try:
            tokens = Tokens.from_bytes(tokens)
        except TokenBytesError as error:
            raise BadTokens(f"the prefix cannot be read: {error}") from error
    tokenizer = generator.tokenizer
    if tokens.fingerprint != tokenizer.fingerprint:
        made = f"{tokenizer.fingerprint} ({tokenizer.name})"
        raise FingerprintMismatch(
            f"the prefix was made by {tokens.fingerprint}, but generator {generator.name!r} makes tokens of {made}"
        )
    if tokens.k > k:
        raise BadTokens(
            f"the prefix has {tokens.k} tokens, and k is {k}: it is to be as long at most"
        )
    if tokens.ids.max() >= tokenizer.vocab_size:
        raise BadTokens(
            f"an id of the prefix is {tokens.ids.max()}; those of tokenizer {tokenizer.name!r} are 0 to {tokenizer.vocab_size - 1}"
        )
    return tokens.ids
