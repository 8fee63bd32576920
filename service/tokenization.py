"""Encode and Decode, once, for both protocols."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import structlog
from channeltok.quality import Measured, Quality
from channeltok.tokens import TokenBytesError, Tokens
from numpy.typing import NDArray

import pictures
from service import metrics, tracing
from service.admission import Admission, Priority
from service.catalogue import Catalogue, Tokenizer
from service.errors import (
    BadK,
    BadPicture,
    BadRequest,
    BadTokens,
    DeadlineExceeded,
    EngineUnavailable,
    FingerprintMismatch,
    ServiceError,
    TooLarge,
    TooManyPixels,
    UnsupportedFormat,
    is_ours,
)
from service.prefixes import measured, prefixes
from service.rate_limit import RateLimit
from service.settings import Settings
from service.triton import RETRY_AFTER_SECONDS, Inference, Triton

log = structlog.get_logger()
Stages = dict[str, float]  # stage -> seconds, in the order they happened
T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """Result of encode. engine: see Model.engine. curve: what was measured to choose k by quality, by ascending k; empty without."""

    tokenizer: Tokenizer
    tokens: Tokens
    stages: Stages
    engine: str
    curve: list[Measured] = field(default_factory=list)


@dataclass(frozen=True)
class Decoded:
    """Result of decode. picture: bytes in the format asked for. engine: see Model.engine."""

    tokenizer: Tokenizer
    picture: bytes
    k: int
    stages: Stages
    engine: str


@dataclass
class _Call:
    """One picture's way through the service: its stages, its clock, and what metrics, trace and log say of it.

    patient: it waits for a place, so that waiting is not slowness (streams).
    """

    rpc: str
    patient: bool = False
    stages: Stages = field(default_factory=dict)
    tokenizer: str = ""
    k: int = 0
    budget: str = ""
    started: float = field(default_factory=time.perf_counter)
    lap: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.span = tracing.picture(self.rpc)

    def concerns(self, served: Tokenizer, k: int) -> None:
        self.tokenizer, self.k, self.budget = served.name, k, metrics.budget_label(k)

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = now - self.lap
        self.lap = now
        self.span.stage(stage, self.stages[stage])

    def inferred(self, inference: Inference) -> None:
        if inference.queue_seconds is not None:
            self.stages["engine_queue"] = self.stages.get("engine_queue", 0.0) + inference.queue_seconds
        self.stages["engine"] = self.stages.get("engine", 0.0) + inference.compute_seconds
        self.lap = time.perf_counter()

    def ended(self, code: str, why: str, slow_seconds: float) -> None:
        """code: OK, CANCELLED or an error's. A fault of ours and a slow call have a line in the log; what callers do wrong has none."""
        seconds = time.perf_counter() - self.started
        metrics.REQUEST_SECONDS.labels(self.rpc, code).observe(seconds)
        if code != "OK":
            metrics.REJECTED.labels(self.rpc, code).inc()
        ours = is_ours(code)
        self.span.end(code, ours, {"tokenizer": self.tokenizer, "k": self.k})
        if ours and code != ServiceError.code:  # that one is logged with its traceback where it becomes a reply
            log.error("call_failed", why=why, **self._facts(code, seconds))
        elif seconds - (self.stages.get("admission", 0.0) if self.patient else 0.0) > slow_seconds:
            log.warning("slow_call", **self._facts(code, seconds))

    def _facts(self, code: str, seconds: float) -> dict[str, Any]:
        stages = {stage: round(taken, 6) for stage, taken in self.stages.items()}
        return {"rpc": self.rpc, "code": code, "tokenizer": self.tokenizer, "k": self.k, "seconds": round(seconds, 6), "stages": stages}


async def _nothing() -> None:
    pass


class Tokenization:
    """The two things the service does.

    catalogue: replaced when Triton serves something else. look_again: asks Triton at once; the supervisor's, where there is one.
    """

    def __init__(self, triton: Triton, settings: Settings) -> None:
        self.catalogue = Catalogue([])
        self.look_again: Callable[[], Awaitable[None]] = _nothing
        self._triton = triton
        self._settings = settings
        self.admission = Admission(settings.places, settings.max_waiting, settings.max_wait)
        self._rate_limit = RateLimit(settings.rate_limit, settings.rate_burst)
        self._picture_threads = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="pictures")

    async def encode(
        self,
        picture: bytes,
        k: int | None,
        tokenizer: str | None,
        *,
        quality: Quality | None = None,
        rpc: str = "encode",
        timeout: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Encoded:
        """Bytes of a JPEG, PNG or WebP to the first k tokens (all when None), or to as many as `quality` asks for.

        timeout: seconds left to the caller's deadline.
        Raises ServiceError, as the table in service/errors.py says.
        """
        async with self._call(rpc, timeout, priority) as call:
            served = self.catalogue.by_name(tokenizer)
            if k is not None and not 1 <= k <= served.channels:
                raise BadK(f"k is {k}; tokenizer {served.name!r} takes 1 to {served.channels}")
            if len(picture) > self._settings.max_message_bytes:
                raise TooLarge(f"the picture has {len(picture):,} bytes; at most {self._settings.max_message_bytes:,} are allowed")
            if k is not None and quality is not None:
                raise BadRequest("k says how many tokens to keep, and so does a quality: ask for one of them")
            k = k or served.channels
            call.concerns(served, k)
            pixels = await self._prepared(picture, served.picture_size)
            call.done("unpack")
            inference = await self._triton.infer(served.encoder, pixels[None], timeout)
            call.inferred(inference)
            ids = self._ids(inference.output[0], served)
            curve = []
            if quality is not None:
                curve = await self._curve(call, served, pixels, ids, quality.budgets(served.channels), timeout)
                k = quality.choose(curve).k
                call.concerns(served, k)
            tokens = Tokens(ids[:k], served.fingerprint)
            metrics.PICTURE_BYTES.labels(rpc).inc(len(picture))
            metrics.TOKENS.labels(rpc).inc(k)
        return Encoded(served, tokens, call.stages, served.encoder.engine, curve)

    async def _curve(
        self,
        call: _Call,
        served: Tokenizer,
        pixels: NDArray[np.uint8],
        ids: NDArray[np.uint16],
        budgets: list[int],
        timeout: float | None,
    ) -> list[Measured]:
        """What a picture is like at each of the budgets: all that one decoder has to do is one batch."""
        decoded = []
        for width, decoder, some in served.decoders_for(budgets):
            inference = await self._triton.infer(decoder, prefixes(ids, some, width), timeout)
            call.inferred(inference)
            decoded.append(inference.output)
        curve = await self._in_thread(measured, pixels, np.concatenate(decoded), budgets)
        call.done("measure")
        return curve

    async def decode(
        self,
        tokens: Tokens | bytes,
        format: str,
        tokenizer: str | None,
        *,
        rpc: str = "decode",
        timeout: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Decoded:
        """Tokens, or token bytes, to a picture in `format` ("JPEG", "PNG" or "WEBP").

        timeout: as for encode. Raises ServiceError, as the table in service/errors.py says.
        """
        async with self._call(rpc, timeout, priority) as call:
            if isinstance(tokens, bytes):
                try:
                    tokens = Tokens.from_bytes(tokens)
                except TokenBytesError as error:
                    raise BadTokens(str(error)) from error
            served = await self._maker_of(tokens, tokenizer)
            served.check(tokens)
            call.concerns(served, tokens.k)
            budget, decoder = served.decoder_for(tokens.k)
            padded = prefixes(tokens.ids, [tokens.k], budget)
            call.done("unpack")
            inference = await self._triton.infer(decoder, padded, timeout)
            call.inferred(inference)
            picture = await self._rendered(inference.output[0], format)
            call.done("render")
            metrics.PICTURE_BYTES.labels(rpc).inc(len(picture))
            metrics.TOKENS.labels(rpc).inc(tokens.k)
        return Decoded(served, picture, tokens.k, call.stages, decoder.engine)

    async def _maker_of(self, tokens: Tokens, name: str | None) -> Tokenizer:
        try:
            return self.catalogue.by_fingerprint(tokens.fingerprint, name)
        except FingerprintMismatch:
            await self.look_again()  # another gateway of the same Triton may have seen a new version before us
            return self.catalogue.by_fingerprint(tokens.fingerprint, name)

    def _ids(self, output: NDArray[np.int32], served: Tokenizer) -> NDArray[np.uint16]:
        """Raises EngineUnavailable for an output that is no token ids: nobody must get them as tokens."""
        if output.min() < 0 or output.max() >= served.codes:
            self._triton.suspects[served.encoder.name] = time.perf_counter()
            raise EngineUnavailable("the engine answered what are no tokens: try again", RETRY_AFTER_SECONDS)
        return output.astype(np.uint16)

    @asynccontextmanager
    async def _call(self, rpc: str, timeout: float | None, priority: Priority) -> AsyncIterator[_Call]:
        """Admission, deadline, and what is told of it afterwards, around one picture."""
        call = _Call(rpc, patient=priority is Priority.BULK)
        code, why = "OK", ""
        try:
            async with asyncio.timeout(timeout):
                await self._rate_limit.take(wait=call.patient)
                async with self.admission.place(priority):
                    call.done("admission")
                    with metrics.IN_FLIGHT.labels(rpc).track_inprogress():
                        yield call
            metrics.PICTURES.labels(rpc).inc()
            for stage, seconds in call.stages.items():
                metrics.STAGE_SECONDS.labels(rpc, stage, call.budget).observe(seconds)
        except TimeoutError as error:
            code = DeadlineExceeded.code
            raise DeadlineExceeded("the deadline passed") from error
        except ServiceError as error:
            code, why = error.code, "; ".join([error.detail, *getattr(error, "__notes__", [])])
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except BaseException:
            code = ServiceError.code
            raise
        finally:
            call.ended(code, why, self._settings.slow_call_seconds)

    async def _prepared(self, picture: bytes, size: int) -> NDArray[np.uint8]:
        # What is quick is done at once: the way to a thread and back takes 0.2 to 0.3 ms of a core.
        return self._prepare(picture, size) if pictures.is_quick(picture) else await self._in_thread(self._prepare, picture, size)

    async def _rendered(self, pixels: NDArray[np.uint8], format: str) -> bytes:
        quick = format == "JPEG" and pixels.size <= 3 * pictures.QUICK_PIXELS
        return pictures.render(pixels, format) if quick else await self._in_thread(pictures.render, pixels, format)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._picture_threads, work, *args)

    def _prepare(self, picture: bytes, size: int) -> NDArray[np.uint8]:
        try:
            return pictures.prepare(picture, size, self._settings.max_pixels)
        except pictures.TooManyPixels as error:
            raise TooManyPixels(str(error)) from error
        except pictures.UnsupportedFormat as error:
            raise UnsupportedFormat(str(error)) from error
        except pictures.BadPicture as error:
            raise BadPicture(str(error)) from error
