"""Encode and Decode, once, for both protocols."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from channeltok.tokens import TokenBytesError, Tokens
from numpy.typing import NDArray

import pictures
from service import metrics
from service.admission import Admission
from service.catalogue import Catalogue, Tokenizer
from service.errors import BadK, BadPicture, BadTokens, DeadlineExceeded, ServiceError, TooLarge, TooManyPixels, UnsupportedFormat
from service.settings import Settings
from service.triton import Inference, Model, Triton

Stages = dict[str, float]  # stage -> seconds, in the order they happened
ABSENT = -1
T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """Result of encode. engine: see Model.engine."""

    tokenizer: Tokenizer
    tokens: Tokens
    stages: Stages
    engine: str


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
    """One picture's way through the service: its stages, its clock, and what the metrics need."""

    rpc: str
    stages: Stages = field(default_factory=dict)
    budget: str = ""
    started: float = field(default_factory=time.perf_counter)
    lap: float = field(default_factory=time.perf_counter)

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = now - self.lap
        self.lap = now

    def inferred(self, inference: Inference) -> None:
        if inference.queue_seconds is not None:
            self.stages["engine_queue"] = inference.queue_seconds
        self.stages["engine"] = inference.compute_seconds
        self.lap = time.perf_counter()


class Tokenization:
    """The two things the service does. `catalogue` is replaced when Triton serves something else."""

    def __init__(self, triton: Triton, settings: Settings) -> None:
        self.catalogue = Catalogue([])
        self._triton = triton
        self._settings = settings
        self._admission = Admission(settings.max_pending)
        metrics.MAX_IN_FLIGHT.set(settings.max_pending)
        self._picture_threads = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="pictures")

    async def encode(
        self, picture: bytes, k: int | None, tokenizer: str | None, *, rpc: str = "encode", timeout: float | None = None, wait: bool = False
    ) -> Encoded:
        """Bytes of a JPEG, PNG or WebP to the first k tokens (all when None).

        timeout: seconds left to the caller's deadline. wait: for a place, instead of being refused (streams).
        Raises ServiceError, as the table in service/errors.py says.
        """
        async with self._call(rpc, timeout, wait) as call:
            served = self.catalogue.by_name(tokenizer)
            if k is not None and not 1 <= k <= served.channels:
                raise BadK(f"k is {k}; tokenizer {served.name!r} takes 1 to {served.channels}")
            if len(picture) > self._settings.max_message_bytes:
                raise TooLarge(f"the picture has {len(picture):,} bytes; at most {self._settings.max_message_bytes:,} are allowed")
            k = k or served.channels
            call.budget = metrics.budget_label(k)
            pixels = await self._in_thread(self._prepare, picture, served.picture_size)
            call.done("unpack")
            inference = await self._triton.infer(served.encoder, pixels, timeout)
            call.inferred(inference)
            tokens = Tokens(inference.output[:k].astype(np.uint16), served.fingerprint)
            metrics.PICTURE_BYTES.labels(rpc).inc(len(picture))
            metrics.TOKENS.labels(rpc).inc(k)
        return Encoded(served, tokens, call.stages, served.encoder.engine)

    async def decode(
        self,
        tokens: Tokens | bytes,
        format: str,
        tokenizer: str | None,
        *,
        rpc: str = "decode",
        timeout: float | None = None,
        wait: bool = False,
    ) -> Decoded:
        """Tokens, or token bytes, to a picture in `format` ("JPEG", "PNG" or "WEBP").

        timeout, wait: as for encode. Raises ServiceError, as the table in service/errors.py says.
        """
        async with self._call(rpc, timeout, wait) as call:
            if isinstance(tokens, bytes):
                try:
                    tokens = Tokens.from_bytes(tokens)
                except TokenBytesError as error:
                    raise BadTokens(str(error)) from error
            served = self.catalogue.by_fingerprint(tokens.fingerprint, tokenizer)
            if tokens.k > served.channels:
                raise BadTokens(f"{tokens.k} ids; tokenizer {served.name!r} takes 1 to {served.channels}")
            call.budget = metrics.budget_label(tokens.k)
            budget, decoder = served.decoder_for(tokens.k)
            padded = np.full(budget, ABSENT, np.int32)
            padded[: tokens.k] = tokens.ids
            call.done("unpack")
            inference = await self._triton.infer(decoder, padded, timeout)
            call.inferred(inference)
            picture = await self._in_thread(pictures.render, inference.output, format)
            call.done("render")
            metrics.PICTURE_BYTES.labels(rpc).inc(len(picture))
            metrics.TOKENS.labels(rpc).inc(tokens.k)
        return Decoded(served, picture, tokens.k, call.stages, decoder.engine)

    async def probe(self, served: Tokenizer, timeout: float) -> list[tuple[Model, ServiceError | None]]:
        """A real, small inference through every model of a tokenizer: the error of each, None where it worked."""
        outcomes: list[tuple[Model, ServiceError | None]] = []
        for model in (served.encoder, *served.decoders.values()):
            try:
                await self._triton.infer(model, np.zeros(model.input.shape, model.input.dtype), timeout)
                outcomes.append((model, None))
            except ServiceError as error:
                outcomes.append((model, error))
        return outcomes

    @asynccontextmanager
    async def _call(self, rpc: str, timeout: float | None, wait: bool) -> AsyncIterator[_Call]:
        """Admission, deadline and metrics around one picture."""
        call = _Call(rpc)
        code = "OK"
        try:
            async with asyncio.timeout(timeout), self._admission.permit(wait=wait):
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
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except BaseException:
            code = ServiceError.code
            raise
        finally:
            metrics.REQUEST_SECONDS.labels(rpc, code).observe(time.perf_counter() - call.started)
            if code != "OK":
                metrics.REJECTED.labels(rpc, code).inc()

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
