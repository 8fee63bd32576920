"""Tokenization: Encode and Decode, for both protocols."""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from channeltok import Preview
from channeltok.fit import Aspect
from channeltok.images import DecodedImage
from channeltok.local.image_quality import measure_quality
from channeltok.padding import pad_prefixes
from channeltok.quality import K_AND_QUALITY, Quality, QualityPoint
from channeltok.tokens import ImageView, TokenBytesError, Tokens
from numpy.typing import NDArray

import imaging
from service.core.admission import Admission, Permit, Priority
from service.core.call_record import CallRecord, Stages
from service.core.image_codec import ImageCodec
from service.core.memory import PATIENCE_SECONDS, MemoryBudget, Reservation, Use
from service.core.progressive import DecodeEvent, DecodeEvents, DecodeFinished
from service.core.rate_limit import RateLimit
from service.core.registry import Registry, ServedTokenizer
from service.errors import (
    BadK,
    BadRequest,
    BadTokens,
    EngineUnavailable,
    FingerprintMismatch,
    TooLarge,
    TooManyPixels,
)
from service.observability import metrics
from service.settings import Settings
from service.triton.client import Triton
from service.triton.health import ENGINE_RETRY_SECONDS

MAX_PREFIXES = 32  # of one call of decode_progressive
# Items of streams wait for their permits; that makes no slow call.
_UNTIMED_STAGES = {
    Priority.INTERACTIVE: frozenset[str](),
    Priority.BULK: frozenset({"admission"}),
}


@dataclass(frozen=True)
class Encoded:
    """Result of encode.

    tokens: with their view. engine: see Model.engine. curve: the qualities measured to choose k, by
    ascending k; empty if k was not chosen by quality.
    """

    tokenizer: ServedTokenizer
    tokens: Tokens
    stages: Stages
    engine: str
    curve: list[QualityPoint] = field(default_factory=list)


@dataclass(frozen=True)
class Decoded:
    """Result of decode. image: bytes in the requested format. engine: see Model.engine."""

    tokenizer: ServedTokenizer
    image: bytes
    k: int
    stages: Stages
    engine: str


class Tokenization:
    """Encodes images to tokens and decodes tokens to images."""

    def __init__(
        self,
        triton: Triton,
        registry: Registry,
        images: ImageCodec,
        rate_limit: RateLimit,
        memory: MemoryBudget,
        settings: Settings,
    ) -> None:
        self._triton = triton
        self._registry = registry
        self._images = images
        self._rate_limit = rate_limit
        self._memory = memory
        self._settings = settings
        self.admission = Admission(
            lambda demand: settings.max_in_flight or registry.current.image_permits(demand),
            settings.max_queue_size,
            settings.max_queue_seconds,
        )
        registry.on_publish = self.admission.show_limit

    @property
    def tokenizers(self) -> list[ServedTokenizer]:
        """The tokenizers served now, the default first."""
        return self._registry.current.tokenizers

    def close(self) -> None:
        """Refuse new images from now on; those accepted go on."""
        self.admission.close()
        self._images.heavy.close()

    async def drain(self, timeout: float) -> int:
        """Wait for accepted images; return the number of those left after `timeout` seconds."""
        started = time.monotonic()
        # In this order, because a heavy image goes to the engine once it is decoded.
        heavy = await self._images.heavy.drain(timeout)
        left = max(0.0, timeout - (time.monotonic() - started))
        return heavy + await self.admission.drain(left)

    async def encode(
        self,
        image: bytes | imaging.Pixels,
        k: int | None,
        tokenizer: str | None,
        *,
        quality: Quality | None = None,
        fit: imaging.Fit = "crop",
        rpc: str = "encode",
        timeout: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Encoded:
        """Encode a JPEG, PNG or WebP, or pixels, to the first k tokens, by default all.

        quality: chooses k instead. fit: what part of the image the tokenizer sees. tokenizer: None
        for the default. timeout: seconds left to the caller's deadline. Raises the ServiceErrors of
        service/errors.py.
        """
        async with self._record(rpc, timeout, priority) as call:
            await self._begin(priority, timeout)
            served = self._registry.current.by_name(tokenizer)
            if k is not None and not 1 <= k <= served.max_tokens:
                raise BadK(f"k is {k}; tokenizer {served.name!r} takes 1 to {served.max_tokens}")
            if len(image) > self._settings.max_message_bytes:
                limit = self._settings.max_message_bytes
                raise TooLarge(f"the image has {len(image):,} bytes; at most {limit:,} are allowed")
            if k is not None and quality is not None:
                raise BadRequest(K_AND_QUALITY)
            k = k or served.max_tokens
            call.set_subject(served.name, k)
            file = self._images.open(image)
            memory = self._memory_of(file, len(image), served.image_size, fit)
            seen = file.view(fit)
            view = ImageView(seen.width, seen.height, *seen.box)
            pixels = None
            if file.heavy:
                # Before the permit: seconds of decoding must not keep others from the engine.
                async with self._images.heavy.acquire(priority, timeout):
                    call.end_stage("admission")
                    with await self._reserve(memory, priority):
                        pixels = await self._images.pixels(file, served.image_size, fit)
                call.end_stage("unpack")
            async with self.admission.acquire(priority, timeout, accepted=file.heavy) as permit:
                call.begin_flight()
                if pixels is None:
                    with await self._reserve(memory, priority):
                        pixels = await self._images.pixels(file, served.image_size, fit)
                    call.end_stage("unpack")
                inference = await self._triton.infer(served.encoder, pixels[None], permit=permit)
                call.add_inference(inference)
                ids = self._check_ids(inference.output[0], served)
                curve = []
                if quality is not None:
                    curve = await self._measure_curve(
                        call, permit, served, pixels, view, ids, quality.budgets(served.max_tokens)
                    )
                    k = quality.choose(curve).k
                    call.set_subject(served.name, k)
            tokens = Tokens(ids[:k], served.fingerprint, view=view)
            metrics.IMAGE_BYTES.labels(rpc).inc(len(image))
            metrics.TOKENS.labels(rpc).inc(k)
        return Encoded(served, tokens, call.stages, served.encoder.engine, curve)

    def _memory_of(self, file: imaging.ImageFile, length: int, size: int, fit: imaging.Fit) -> int:
        """Bytes that decoding takes. Raises TooManyPixels where there can never be so many.

        length: of the file, in bytes. size: side of the pixels.
        """
        # A worker process is sent a copy of the file, and reads another.
        memory = file.memory(size, fit) + (0 if file.quick else 2 * length)
        if memory > self._memory.largest:
            raise TooManyPixels(
                f"the image takes {memory:,} bytes to decode; the service has "
                f"{self._memory.largest:,} for images"
            )
        return memory

    async def _reserve(self, size: int, priority: Priority) -> Reservation:
        """Memory for an image. Raises Overloaded."""
        patience = PATIENCE_SECONDS if priority is Priority.INTERACTIVE else None
        return await self._memory.reserve(size, Use.IMAGES, patience)

    async def _measure_curve(
        self,
        call: CallRecord,
        permit: Permit,
        served: ServedTokenizer,
        pixels: NDArray[np.uint8],
        view: ImageView,
        ids: NDArray[np.uint16],
        ks: list[int],
    ) -> list[QualityPoint]:
        """Measure the quality at each of the ascending `ks`, in one batch per decoder."""
        decoded = []
        for budget, decoder, group in served.decoders_for(ks):
            padded = pad_prefixes(ids, group, budget)
            inference = await self._triton.infer(decoder, padded, permit=permit)
            call.add_inference(inference)
            decoded.append(inference.output)
        curve = await self._images.run_in_thread(
            measure_quality, pixels, np.concatenate(decoded), ks, view.aspect
        )
        call.end_stage("measure")
        return curve

    async def decode(
        self,
        tokens: Tokens | bytes,
        format: str,
        tokenizer: str | None,
        *,
        k: int | None = None,
        aspect: Aspect | None = None,
        rpc: str = "decode",
        timeout: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Decoded:
        """Decode tokens or token bytes to an image in `format` ("JPEG", "PNG" or "WEBP").

        k: decode the first k tokens only; None for all. aspect: proportions of an image that was
        padded, both at least 1: the reply is without its bands. None for those of the tokens, else
        the whole square. tokenizer, timeout: as for encode. Raises the ServiceErrors of
        service/errors.py.
        """
        async with self._record(rpc, timeout, priority) as call:
            await self._begin(priority, timeout)
            async with self.admission.acquire(priority, timeout) as permit:
                call.begin_flight()
                served, tokens = await self._read_tokens(tokens, tokenizer)
                if k is not None:
                    _check_prefixes([k], tokens.k)
                    tokens = tokens.prefix(k)
                call.set_subject(served.name, tokens.k)
                decoder, padded = served.decoder_input(tokens)
                call.end_stage("unpack")
                inference = await self._triton.infer(decoder, padded, permit=permit)
                call.add_inference(inference)
                pixels = imaging.crop_to_aspect(
                    inference.output[0], *(aspect or tokens.aspect or (1, 1))
                )
                image = await self._images.encode(pixels, format)
                call.end_stage("render")
                metrics.IMAGE_BYTES.labels(rpc).inc(len(image))
                metrics.TOKENS.labels(rpc).inc(tokens.k)
        return Decoded(served, image, tokens.k, call.stages, decoder.engine)

    def decode_progressive(
        self,
        tokens: Tokens | bytes,
        ks: Sequence[int],
        format: str,
        tokenizer: str | None,
        *,
        aspect: Aspect | None = None,
        timeout: float | None = None,
    ) -> DecodeEvents:
        """Decode the first k tokens for each of `ks`: a Preview of each, in their order, then
        DecodeFinished.

        ks: 1 to MAX_PREFIXES different values, each 1 to the number of tokens. The prefixes are one
        batch of their decoder and hold one permit, which a slow reader does not prolong. An invalid
        request raises before the first event. Other parameters and errors: as for decode.
        """

        async def work(memory: Reservation, put: Callable[[DecodeEvent], None]) -> None:
            rpc = "decode_progressive"
            async with self._record(rpc, timeout, Priority.INTERACTIVE) as call:
                await self._begin(Priority.INTERACTIVE, timeout)
                served, read = await self._read_tokens(tokens, tokenizer)
                _check_prefixes(ks, read.k)
                call.set_subject(served.name, max(ks))
                call.images = len(ks)
                call.end_stage("unpack")
                for _ in ks[1:]:  # the call itself counted as one image
                    await self._rate_limit.take(wait=True)
                # As pixels and as files.
                await memory.grow(2 * len(ks) * 3 * served.image_size**2, PATIENCE_SECONDS)
                async with self.admission.acquire(Priority.INTERACTIVE, timeout) as permit:
                    call.begin_flight()
                    images = self._prefixes(call, permit, served, read, ks, format, aspect)
                    size = 0
                    async for k, image in images:
                        size += len(image)
                        metrics.IMAGE_BYTES.labels(rpc).inc(len(image))
                        metrics.TOKENS.labels(rpc).inc(k)
                        put(Preview(k, DecodedImage(image)))
                memory.shrink(size)
            put(DecodeFinished(served, call.stages, served.decoder_for(max(ks))[1].engine))

        return DecodeEvents(work, Reservation(self._memory, Use.MESSAGES))

    async def _prefixes(
        self,
        call: CallRecord,
        permit: Permit,
        served: ServedTokenizer,
        tokens: Tokens,
        ks: Sequence[int],
        format: str,
        aspect: Aspect | None,
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Each of `ks` and its image, in their order: one batch for each decoder."""
        shape = aspect or tokens.aspect or (1, 1)
        files: dict[int, bytes] = {}
        left = deque(ks)
        for budget, decoder, group in served.decoders_for(sorted(ks)):
            padded = pad_prefixes(tokens.ids, group, budget)
            inference = await self._triton.infer(decoder, padded, permit=permit)
            call.add_inference(inference)
            images = (imaging.crop_to_aspect(pixels, *shape) for pixels in inference.output)
            rendered = await self._images.encode_all(images, format)
            call.end_stage("render")
            files.update(zip(group, rendered, strict=True))
            while left and left[0] in files:
                k = left.popleft()
                yield k, files.pop(k)

    async def _read_tokens(
        self, tokens: Tokens | bytes, tokenizer: str | None
    ) -> tuple[ServedTokenizer, Tokens]:
        """The tokens, and the tokenizer that made them. Raises BadTokens, FingerprintMismatch."""
        if isinstance(tokens, bytes):
            try:
                tokens = Tokens.from_bytes(tokens)
            except TokenBytesError as error:
                raise BadTokens(str(error)) from error
        served = await self._find_maker(tokens, tokenizer)
        served.check(tokens)
        return served, tokens

    async def _find_maker(self, tokens: Tokens, name: str | None) -> ServedTokenizer:
        try:
            return self._registry.current.by_fingerprint(tokens.fingerprint, name)
        except FingerprintMismatch:
            # Another gateway of the same Triton may have seen a new version before us.
            await self._registry.refresh()
            return self._registry.current.by_fingerprint(tokens.fingerprint, name)

    def _check_ids(self, output: NDArray[np.int32], served: ServedTokenizer) -> NDArray[np.uint16]:
        """Return the encoder's output as ids; raises EngineUnavailable for ids out of range."""
        # As unsigned integers, negative ids are large.
        if output.view(f"u{output.itemsize}").max() >= served.vocab_size:
            self._triton.health.suspect(served.encoder.name, time.perf_counter())
            raise EngineUnavailable(
                "the engine returned invalid tokens: try again", ENGINE_RETRY_SECONDS
            )
        return output.astype(np.uint16)

    def _record(self, rpc: str, timeout: float | None, priority: Priority) -> CallRecord:
        return CallRecord(rpc, self._settings.slow_call_seconds, _UNTIMED_STAGES[priority], timeout)

    async def _begin(self, priority: Priority, timeout: float | None) -> None:
        """Rate limit, and refusal under overload before any work on the image."""
        await self._rate_limit.take(wait=priority is Priority.BULK)
        self.admission.check(priority, timeout)


def _check_prefixes(ks: Sequence[int], most: int) -> None:
    """Raises BadK unless there are 1 to MAX_PREFIXES different values from 1 to `most`."""
    if not 1 <= len(ks) <= MAX_PREFIXES:
        raise BadK(f"{len(ks)} values of k; a call takes 1 to {MAX_PREFIXES}")
    for k in ks:
        if not 1 <= k <= most:
            raise BadK(f"k is {k}; there are {most} tokens, so it is 1 to {most}")
        if list(ks).count(k) > 1:
            raise BadK(f"k = {k} is given more than once")
