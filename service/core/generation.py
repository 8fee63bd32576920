"""Generate, for both protocols: new tokens by a generator in Triton, and previews of the image.

    request -> check -> permit -> Triton's stream -> tokens ------------> events
                                                       |
                                                       at each preview's k: decode -> events

A slow reader holds no permit: events wait for it in a buffer, and they are small (a few hundred
ids, a few images).
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
from channeltok import GenerateParams, NewTokens, Preview, Started
from channeltok.errors import InvalidInput
from channeltok.images import DecodedImage
from channeltok.padding import pad_prefixes
from channeltok.tokens import TokenBytesError, Tokens
from numpy.typing import NDArray

from service.core.admission import Admission, Permit, Priority
from service.core.call_record import CallRecord, Stages
from service.core.image_codec import ImageCodec
from service.core.rate_limit import RateLimit
from service.core.registry import Registry, ServedGenerator
from service.errors import (
    BadK,
    BadRequest,
    BadSampling,
    BadTokens,
    EngineUnavailable,
    FingerprintMismatch,
    to_service_error,
)
from service.observability import metrics
from service.settings import Settings
from service.triton.client import Triton
from service.triton.health import ENGINE_RETRY_SECONDS

TEMPERATURE = 0.85
TOP_K = 200
MAX_TEMPERATURE = 10.0
MAX_GUIDANCE = 20.0
MAX_PREVIEWS = 8
MAX_SEED = 2**63 - 1
_RANDOM_SEED_BITS = 32  # JSON readers keep integers exactly only up to 53 bits
_RPC = "generate"


@dataclass(frozen=True)
class Finished:
    """The last event. tokenizer: name. tokens: the whole sequence. engine: see Model.engine."""

    tokenizer: str
    tokens: Tokens
    engine: str
    stages: Stages


Event = Started | NewTokens | Preview | Finished


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """GenerateParams, checked and with defaults filled in.

    condition: class or prompt as an input of the Triton model, see ServedGenerator. prefix: uint16
    [j], 0 <= j <= k. previews: ascending. preview_format: as Pillow names it.
    """

    generator: ServedGenerator
    condition: dict[str, NDArray[Any]]
    prefix: NDArray[np.uint16]
    k: int
    seed: int
    temperature: float
    final_temperature: float
    top_k: int
    top_p: float
    guidance: float
    previews: list[int]
    preview_format: str

    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """The input tensors of the Triton model, by name."""
        return {
            **self.condition,
            "prefix": pad_prefixes(self.prefix, [len(self.prefix)], self.generator.max_tokens)[0],
            "length": np.array([self.k], np.int32),
            "seed": np.array([self.seed], np.int64),
            "temperature": np.array([self.temperature], np.float32),
            "final_temperature": np.array([self.final_temperature], np.float32),
            "top_k": np.array([self.top_k], np.int32),
            "top_p": np.array([self.top_p], np.float32),
            "guidance": np.array([self.guidance], np.float32),
        }


class _EventBuffer:
    """Events made and not yet read. Consecutive NewTokens are merged."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, NewTokens) and isinstance(last, NewTokens):
            self._events[-1] = NewTokens(last.index, (*last.ids, *event.ids))
        else:
            self._events.append(event)
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def get(self) -> Event | None:
        """The next event, in order; None once the buffer is closed and empty."""
        while not self._events and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft() if self._events else None


class Generation:
    """Runs Generate. It has permits of its own: a long generation takes none from single images."""

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
            lambda _: settings.generation_permits,
            0,
            0.0,
            "generations",
            metrics.GENERATIONS_IN_FLIGHT_LIMIT,
        )

    @property
    def generators(self) -> list[ServedGenerator]:
        """The generators that calls go to, the default one first."""
        return self._registry.current.current_generators

    async def params(self, **fields: Any) -> GenerateParams:
        """Build GenerateParams. Values out of range count and raise as a failed call does."""
        try:
            return GenerateParams(**fields)
        except InvalidInput as error:
            async with CallRecord(_RPC, self._slow_call_seconds):
                raise to_service_error(error) from error

    async def generate(
        self, params: GenerateParams, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield Started, then NewTokens and Previews as they are made, then Finished.

        Started comes with the first token, so a request that cannot be served raises before it.
        Iterate within `contextlib.aclosing`: closing stops the engine at once.

        timeout: seconds left until the caller's deadline.
        Raises ServiceError, as the table in service/errors.py says.
        """
        buffer = _EventBuffer()
        running = asyncio.create_task(self._run(params, timeout, buffer))
        running.add_done_callback(lambda _: buffer.close())
        try:
            while (event := await buffer.get()) is not None:
                yield event
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)  # until the engine is stopped

    async def _run(
        self, params: GenerateParams, timeout: float | None, buffer: _EventBuffer
    ) -> None:
        """Check, admit and record one generation, and put all its events into `buffer`."""
        async with CallRecord(
            _RPC, self._slow_call_seconds, frozenset({"tokens", "previews"}), timeout
        ) as call:
            await self._rate_limit.take(wait=False)
            plan = self._plan(params)
            call.set_subject(plan.generator.tokenizer.name, plan.k)
            async with self.admission.acquire(Priority.INTERACTIVE) as permit:
                call.end_stage("admission")
                with metrics.GENERATIONS_IN_FLIGHT.track_inprogress():
                    await self._generate(plan, call, permit, buffer)

    async def _generate(
        self, plan: _Plan, call: CallRecord, permit: Permit, buffer: _EventBuffer
    ) -> None:
        generator, tokenizer = plan.generator, plan.generator.tokenizer
        ids = plan.prefix.tolist()
        previews = deque(plan.previews)
        preview_queue: asyncio.Queue[Tokens] = asyncio.Queue()
        decoding = asyncio.create_task(self._decode_previews(plan, permit, preview_queue, buffer))
        try:
            async with aclosing(self._new_ids(plan, call, permit)) as stream:
                async for new_ids in stream:
                    if len(ids) == len(plan.prefix):
                        names = (generator.name, tokenizer.name, tokenizer.fingerprint)
                        buffer.put(Started(*names, plan.seed, plan.k))
                    if new_ids:
                        buffer.put(NewTokens(len(ids), tuple(new_ids)))
                        ids += new_ids
                    while previews and previews[0] <= len(ids):
                        k = previews.popleft()
                        preview_queue.put_nowait(Tokens(ids[:k], tokenizer.fingerprint))
            call.end_stage("tokens")
            await decoding
            call.end_stage("previews")
        finally:
            decoding.cancel()
        tokens = Tokens(ids, tokenizer.fingerprint)
        buffer.put(Finished(tokenizer.name, tokens, generator.model.engine, call.stages))

    async def _new_ids(
        self, plan: _Plan, call: CallRecord, permit: Permit
    ) -> AsyncGenerator[list[int], None]:
        """Yield the ids after the prefix as the engine sends them; one empty list if none are due.

        Raises EngineUnavailable when the engine sends anything else.
        """
        position = len(plan.prefix)
        if position == plan.k:
            yield []
            return
        name, model = plan.generator.name, plan.generator.model
        vocab_size = plan.generator.tokenizer.vocab_size
        sent, latest = time.perf_counter(), call.started
        async with aclosing(
            self._triton.streams.infer(model, plan.inputs(), permit=permit)
        ) as responses:
            async for response in responses:
                index, ids = (
                    response[output].tolist() if output in response else []
                    for output in ("index", "token")
                )
                in_range = all(0 <= token < vocab_size for token in ids)
                if index != [position] or not 0 < len(ids) <= plan.k - position or not in_range:
                    break
                now = time.perf_counter()
                if position == len(plan.prefix):
                    metrics.TIME_TO_FIRST_TOKEN_SECONDS.labels(name).observe(now - latest)
                    call.end_stage("first_token")
                else:
                    for _ in ids:
                        metrics.INTER_TOKEN_LATENCY_SECONDS.labels(name).observe(
                            (now - latest) / len(ids)
                        )
                latest = now
                metrics.TOKENS.labels(_RPC).inc(len(ids))
                position += len(ids)
                yield ids
            else:
                if position == plan.k:
                    return
        self._triton.health.suspect(model.name, sent)
        raise EngineUnavailable(
            "the engine returned invalid tokens: try again", ENGINE_RETRY_SECONDS
        )

    async def _decode_previews(
        self,
        plan: _Plan,
        permit: Permit,
        preview_queue: asyncio.Queue[Tokens],
        buffer: _EventBuffer,
    ) -> None:
        for _ in plan.previews:
            tokens = await preview_queue.get()
            await self._rate_limit.take(wait=True)
            decoder, padded = plan.generator.tokenizer.decoder_input(tokens)
            inference = await self._triton.infer(decoder, padded, permit=permit)
            image = await self._images.encode(inference.output[0], plan.preview_format)
            metrics.IMAGE_BYTES.labels(_RPC).inc(len(image))
            buffer.put(Preview(tokens.k, DecodedImage(image)))

    def _plan(self, params: GenerateParams) -> _Plan:
        temperature = TEMPERATURE if params.temperature is None else params.temperature
        final = temperature if params.final_temperature is None else params.final_temperature
        for name, value in (("temperature", temperature), ("final_temperature", final)):
            if not 0 <= value <= MAX_TEMPERATURE:  # also refuses NaN
                raise BadSampling(f"{name} is {value:g}; it must be 0 to {MAX_TEMPERATURE:g}")
        seed = random.getrandbits(_RANDOM_SEED_BITS) if params.seed is None else params.seed
        if not 0 <= seed <= MAX_SEED:
            raise BadSampling(f"seed is {seed}; it must be 0 to {MAX_SEED}")
        has_condition = params.prompt or params.class_name
        prefix = _read_prefix(params.prefix)
        generator = self._registry.current.generator(
            params.generator,
            prompt=bool(params.prompt) if has_condition else None,
            fingerprint=prefix.fingerprint if prefix else None,
        )
        vocab_size = generator.tokenizer.vocab_size
        top_k = min(TOP_K, vocab_size) if params.top_k is None else params.top_k
        if not 0 <= top_k <= vocab_size:
            raise BadSampling(
                f"top_k is {top_k}; generator {generator.name!r} takes 0 (no limit) to {vocab_size}"
            )
        # As the engine reads it: 1e-50 is 0 there.
        top_p = 1.0 if params.top_p is None else float(np.float32(params.top_p))
        if not 0 < top_p <= 1:
            raise BadSampling(f"top_p is {top_p:g}; it must be over 0 to 1 (no limit)")
        guidance = 1.0 if params.guidance is None else params.guidance
        if not 0 <= guidance <= MAX_GUIDANCE:
            raise BadSampling(f"guidance is {guidance:g}; it must be 0 to {MAX_GUIDANCE:g}")
        k = generator.max_tokens if params.k is None else params.k
        if not 1 <= k <= generator.max_tokens:
            raise BadK(f"k is {k}; generator {generator.name!r} takes 1 to {generator.max_tokens}")
        previews = sorted(set(params.previews))
        if len(previews) > MAX_PREVIEWS:
            raise BadRequest(f"{len(previews)} previews; at most {MAX_PREVIEWS} are allowed")
        for preview in previews:
            if not 1 <= preview <= k:
                raise BadK(f"a preview is at {preview}; with k = {k} previews are at 1 to {k}")
        return _Plan(
            generator=generator,
            condition=generator.condition(params.class_name, params.prompt),
            prefix=_prefix_ids(prefix, generator, k),
            k=k,
            seed=seed,
            temperature=temperature,
            final_temperature=final,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            previews=previews,
            preview_format=params.preview_format.upper(),
        )


def _read_prefix(prefix: Tokens | bytes | None) -> Tokens | None:
    """None for no prefix. Raises BadTokens."""
    if not prefix:
        return None
    if isinstance(prefix, Tokens):
        return prefix
    try:
        return Tokens.from_bytes(prefix)
    except TokenBytesError as error:
        raise BadTokens(f"the prefix cannot be read: {error}") from error


def _prefix_ids(tokens: Tokens | None, generator: ServedGenerator, k: int) -> NDArray[np.uint16]:
    """The ids, uint16 [j], 0 <= j <= k. Raises BadTokens, FingerprintMismatch."""
    if tokens is None:
        return np.zeros(0, np.uint16)
    tokenizer = generator.tokenizer
    if tokens.fingerprint != tokenizer.fingerprint:
        raise FingerprintMismatch(
            f"the prefix was made by {tokens.fingerprint}, but generator {generator.name!r} "
            f"makes tokens of {tokenizer.fingerprint} ({tokenizer.name})"
        )
    if tokens.k > k:
        raise BadTokens(f"the prefix has {tokens.k} tokens; with k = {k} it can have at most {k}")
    tokenizer.check(tokens)
    return tokens.ids
