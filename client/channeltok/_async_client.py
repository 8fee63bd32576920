"""`channeltok.AsyncClient`: the methods of `Client` over grpc.aio."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

import grpc
import grpc.aio
from typing_extensions import Self

from channeltok import _channel, _messages, generation
from channeltok._messages import ImageFormat, TokenizerInfo
from channeltok._reorder import CallEnded, Event, Outbox, Reply, Sent, SourceEnded, Window
from channeltok.errors import ChannelTokError, Unavailable, from_rpc_error, unless_error
from channeltok.fit import Aspect, Fit, check_aspect, check_fit
from channeltok.generation import GenerateParams, GenerationEvent, GeneratorInfo, Preview
from channeltok.images import Array, DecodedImage, ImageLike, images_of
from channeltok.quality import Quality
from channeltok.tokens import Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

Item = TypeVar("Item")
Result = TypeVar("Result")


class AsyncClient:
    """`Client` for asyncio: the same arguments, results and errors.

    Create it inside the running event loop that will use it, and `await close()` it or use it
    with `async with`. Raises RuntimeError without a running event loop.
    """

    def __init__(
        self,
        target: str = _channel.DEFAULT_TARGET,
        timeout: float = 30.0,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        bearer_token: str | None = None,
        retries: bool = True,
    ) -> None:
        asyncio.get_running_loop()  # without one, grpc.aio would bind to a loop that never runs
        self._timeout = _channel.checked_timeout(timeout)
        self._metadata = _channel.metadata_of(bearer_token)
        self._retries = retries
        self._reached = False  # whether the service has ever answered
        self._closed = False
        options = _channel.options_for(target, retries)
        self._channel = (
            grpc.aio.insecure_channel(target, options=options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=options)
        )
        self._stub = TokenizerStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @overload
    async def encode(
        self,
        image: Array,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Any: ...
    @overload
    async def encode(
        self,
        image: ImageLike,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Tokens: ...
    @overload
    async def encode(
        self,
        image: list[Any] | tuple[Any, ...],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> list[Tokens]: ...
    async def encode(
        self,
        image: Any,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Tokens | list[Tokens]:
        """Encode an image, or several, to the first k tokens. See `Client.encode`.

        Files are read on the event loop: pass their bytes if reading blocks.
        """
        batch = images_of(image)
        if batch is not None:
            stream = self.encode_stream(batch, k, tokenizer, quality=quality, fit=fit)
            async with aclosing(stream) as results:
                return [unless_error(result) async for result in results]
        request = _messages.encode_request(image, k, tokenizer, quality, fit)
        return await self._call(self._stub.Encode, request, partial(_messages.read_tokens, fit=fit))

    async def decode(
        self,
        tokens: Tokens | bytes,
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> DecodedImage:
        """Decode tokens to an image. See `Client.decode`."""
        request = _messages.decode_request(tokens, format, tokenizer, aspect)
        return await self._call(self._stub.Decode, request, _messages.read_image)

    def decode_progressive(
        self,
        tokens: Tokens | bytes,
        ks: Sequence[int],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> AsyncGenerator[Preview, None]:
        """Decode several prefixes of the same tokens, for `async for`. See `Client`."""
        request = _messages.decode_progressive_request(tokens, ks, format, tokenizer, aspect)
        return self._previews(request)

    async def _previews(
        self, request: pb.DecodeProgressiveRequest
    ) -> AsyncGenerator[Preview, None]:
        async with aclosing(self._replies(self._stub.DecodeProgressive, request)) as replies:
            async for reply in replies:
                if (preview := generation.read_preview(reply)) is not None:
                    yield preview

    def encode_stream(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike],
        k: int | None = None,
        tokenizer: str | None = None,
        in_flight: int = 64,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> AsyncGenerator[Tokens | ChannelTokError, None]:
        """Encode many images over one call. See `Client.encode_stream`.

        `images` is read on the event loop: pass an async iterable if reading blocks.
        """
        _messages.check_k(k)
        check_fit(fit)
        build = partial(_messages.encode_item, k=k, tokenizer=tokenizer, quality=quality, fit=fit)
        return self._stream(
            self._stub.EncodeStream,
            images,
            build,
            partial(_messages.read_encode_item, fit=fit),
            _channel.checked_in_flight(in_flight),
        )

    def decode_stream(
        self,
        tokens: AsyncIterable[Tokens | bytes] | Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        in_flight: int = 64,
        *,
        aspect: Aspect | None = None,
    ) -> AsyncGenerator[DecodedImage | ChannelTokError, None]:
        """Decode many token sequences over one call. See `Client.decode_stream`.

        `tokens` is read on the event loop: pass an async iterable if reading blocks.
        """
        _messages.check_format(format)
        if aspect is not None:
            check_aspect(aspect)
        build = partial(_messages.decode_item, format=format, tokenizer=tokenizer, aspect=aspect)
        return self._stream(
            self._stub.DecodeStream,
            tokens,
            build,
            _messages.read_decode_item,
            _channel.checked_in_flight(in_flight),
        )

    async def tokenizers(self) -> list[TokenizerInfo]:
        """List the tokenizers that are served now. See `Client.tokenizers`."""
        return await self._call(
            self._stub.ListTokenizers, pb.ListTokenizersRequest(), _messages.read_tokenizers
        )

    def generate(self, params: GenerateParams) -> AsyncGenerator[GenerationEvent, None]:
        """Generate an image token by token, for `async for`. See `Client.generate`."""
        return self._events(generation.generate_request(params))

    async def _events(self, request: pb.GenerateRequest) -> AsyncGenerator[GenerationEvent, None]:
        async with aclosing(self._replies(self._stub.Generate, request)) as replies:
            async for reply in replies:
                yield generation.read_event(reply)

    async def _replies(self, method: Callable[..., Any], request: Any) -> AsyncGenerator[Any, None]:
        call = method(request, timeout=self._timeout, metadata=self._metadata())
        try:
            with _channel.typed_errors():
                async for reply in call:
                    yield reply
        finally:
            call.cancel()

    async def generators(self) -> list[GeneratorInfo]:
        """List the generators that are served now. See `Client.generators`."""
        return await self._call(
            self._stub.ListGenerators, pb.ListGeneratorsRequest(), generation.read_generators
        )

    async def _call(
        self, method: Callable[..., Any], request: Any, read: Callable[[Any], Result]
    ) -> Result:
        with _channel.typed_errors():
            response = await method(
                request,
                timeout=self._timeout,
                metadata=self._metadata(),
                wait_for_ready=self._waits,
            )
        self._reached = True
        return read(response)

    @property
    def _waits(self) -> bool:
        """Whether a call waits for a connection. See `Client`."""
        return self._retries and self._reached

    async def _stream(
        self,
        method: Callable[..., Any],
        source: AsyncIterable[Item] | Iterable[Item],
        build: Callable[[int, Item], Any],
        read: Callable[[Any], Result | ChannelTokError],
        in_flight: int,
    ) -> AsyncGenerator[Result | ChannelTokError, None]:
        events: asyncio.Queue[Event[Result] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(in_flight - 1)  # the first item needs none
        outbox: Outbox[asyncio.Queue[Any]] = Outbox(asyncio.Queue)

        async def read_source() -> None:
            number = 0
            try:
                async for item in _each(source):
                    request = build(number, item)
                    events.put_nowait(Sent(number))
                    if isinstance(request, ChannelTokError):
                        events.put_nowait(Reply(number, request))
                    else:
                        outbox.send(number, request)
                    number += 1
                    await slots.acquire()
            except Exception as error:
                events.put_nowait(SourceEnded(error))
            else:
                events.put_nowait(SourceEnded(None))
            outbox.close()

        async def read_replies(call: Any, ends: list[grpc.aio.AioRpcError]) -> None:
            try:
                async for response in call:
                    self._reached = True
                    events.put_nowait(Reply(response.id, read(response)))
            except grpc.aio.AioRpcError as error:
                events.put_nowait(_end_of_stream([*ends, error]))
            else:
                events.put_nowait(CallEnded(None))

        def start_call() -> Any:
            call = method(
                _taken_from(outbox.next_call()),
                metadata=self._metadata(),
                wait_for_ready=self._waits,
            )
            ends: list[grpc.aio.AioRpcError] = []
            call.add_done_callback(lambda _: ends.append(_final_status(call)))
            tasks.append(asyncio.create_task(read_replies(call, ends)))
            return call

        tasks: list[asyncio.Task[None]] = []
        window: Window[Result] = Window(self._timeout, self._retries)
        call = start_call()
        try:
            tasks.append(asyncio.create_task(read_source()))
            while not window.finished:
                event = await _next(events, window.remaining())
                if event is None:
                    if window.remaining() == 0:
                        window.time_out()
                    continue
                if not self._closed and (delay := window.delay(event)) is not None:
                    await asyncio.sleep(delay)
                    call = start_call()
                    continue
                if isinstance(event, Reply):
                    outbox.forget(event.number)
                for result in window.take(event):
                    slots.release()
                    yield result
        finally:
            outbox.close()
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _next(
    events: asyncio.Queue[Event[Result] | None], seconds: float | None
) -> Event[Result] | None:
    """The next event. None, sometimes also too early, when none came within `seconds`.

    asyncio.timeout would need Python 3.11; wait_for of 3.10 may lose an event or a cancellation.
    """
    if seconds is None:
        return await events.get()
    timer = asyncio.get_running_loop().call_later(seconds, events.put_nowait, None)
    try:
        return await events.get()
    finally:
        timer.cancel()


async def _taken_from(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (request := await queue.get()) is not None:
        yield request


async def _each(source: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item
            await asyncio.sleep(0)  # others run between two images, which take time to read


# When the service ends a stream during a send, grpc.aio may report this status instead
# of the true one: when the call is done, or when reading raises, but never at both points.
_STATUS_LOST = "Internal error from Core"


def _end_of_stream(ends: list[grpc.aio.AioRpcError]) -> CallEnded:
    for end in ends:
        if end.details() != _STATUS_LOST:
            return CallEnded(None if end.code() is grpc.StatusCode.OK else from_rpc_error(end))
    return CallEnded(Unavailable("UNAVAILABLE", "the service ended the stream"))


def _final_status(call: Any) -> grpc.aio.AioRpcError:
    """The status of a finished call, OK or not."""
    return grpc.aio.AioRpcError(
        _result_of(call.code()),
        grpc.aio.Metadata(),
        _result_of(call.trailing_metadata()),
        _result_of(call.details()),
    )


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that need not wait, without giving up control.

    Awaiting it would let the event loop continue, and grpc.aio replace the status.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    return None
