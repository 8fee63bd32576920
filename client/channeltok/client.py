"""The typed client, sync (`Client`) and asyncio (`AsyncClient`): the same methods, the same errors.

Neither repeats a call by itself: whoever calls knows what a second try is worth, and `Overloaded.retry_after` and `Unavailable` say
when it makes sense. What gRPC does below is reconnect, at most 2 s after the last attempt, and send again what never left the machine.
"""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from channeltok.errors import ChannelTokError, Unavailable, from_rpc_error
from channeltok.messages import (
    MAX_MESSAGE_BYTES,
    PictureFormat,
    TokenizerInfo,
    check_format,
    check_k,
    decode_item,
    decode_request,
    encode_item,
    encode_request,
    read_decode_item,
    read_encode_item,
    read_picture,
    read_tokenizers,
    read_tokens,
)
from channeltok.tokens import Tokens
from channeltok.trace_context import trace_context
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub
from channeltok.window import Answer, CallEnded, Event, Sent, SourceEnded, Window

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_TARGET = "127.0.0.1:50051"

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own is 120 s: a client would sleep two minutes beside a service that is long back.
    ("grpc.max_reconnect_backoff_ms", 2000),
    # All addresses behind a name, call by call: gRPC's own policy stays with the first for ever.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]


class Client:
    """Pictures to tokens and back, over gRPC. Safe to share between threads; close it, or use it as a context manager.

    target: a gRPC target such as "127.0.0.1:50051" or "dns:///tokenizer.example:50051".
    timeout: seconds, above 0: the deadline of each call. For a stream, the longest wait for the next answer while items are in flight.
    credentials: for TLS, `grpc.ssl_channel_credentials(root_certificates, private_key, certificate_chain)`, all PEM bytes and optional
    (system roots; the latter two for mutual TLS). None: plain text.
    bearer_token: sent with every call. Without credentials whoever listens on the way can read it.

    Every method raises ChannelTokError subclasses: InvalidInput, TooLarge, UnknownTokenizer, FingerprintMismatch, Overloaded,
    Unauthenticated, DeadlineExceeded, Unavailable, InternalError. No call is repeated automatically.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout: float = 30.0,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        bearer_token: str | None = None,
    ) -> None:
        self._timeout = _checked_timeout(timeout)
        self._metadata = partial(_metadata, _authorization(bearer_token))
        self._channel = (
            grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        )
        self._stub = TokenizerStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def encode(self, picture: bytes, k: int | None = None, tokenizer: str | None = None) -> Tokens:
        """The first k tokens of a picture.

        picture: the bytes of a JPEG, PNG or WebP. k: 1 to the tokenizer's channels; None: all of them. tokenizer: a name from
        `tokenizers()`; None: the default one.
        """
        request = encode_request(picture, k, tokenizer)
        with _typed_errors():
            response = self._stub.Encode(request, timeout=self._timeout, metadata=self._metadata())
        return read_tokens(response)

    def decode(self, tokens: Tokens | bytes, format: PictureFormat = "png", tokenizer: str | None = None) -> bytes:
        """The picture that the tokens (or token bytes) stand for, as the bytes of a PNG, JPEG or WebP, `picture_size` pixels square.

        tokenizer: a name from `tokenizers()`; None: the one that made the tokens.
        """
        request = decode_request(tokens, format, tokenizer)
        with _typed_errors():
            response = self._stub.Decode(request, timeout=self._timeout, metadata=self._metadata())
        return read_picture(response)

    def encode_stream(
        self, pictures: Iterable[bytes], k: int | None = None, tokenizer: str | None = None, in_flight: int = 64
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """Many pictures over one call: for each, in the order given, its tokens or the error it failed with.

        A bad picture costs its own place only: its error is yielded, not raised. What is raised is what ends the stream: Unavailable,
        DeadlineExceeded and the like, or whatever `pictures` itself raised, after the results of all that came before it.

        pictures: may be endless. It is read in another thread, never more than `in_flight` items ahead of the results taken.
        """
        check_k(k)

        build = partial(encode_item, k=k, tokenizer=tokenizer)
        return self._stream(self._stub.EncodeStream, pictures, build, read_encode_item, _checked_in_flight(in_flight))

    def decode_stream(
        self, tokens: Iterable[Tokens | bytes], format: PictureFormat = "png", tokenizer: str | None = None, in_flight: int = 64
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """Many token sequences over one call: for each, in the order given, its picture or the error it failed with.

        By the same rules as `encode_stream`.
        """
        check_format(format)

        build = partial(decode_item, format=format, tokenizer=tokenizer)
        return self._stream(self._stub.DecodeStream, tokens, build, read_decode_item, _checked_in_flight(in_flight))

    def tokenizers(self) -> list[TokenizerInfo]:
        """What is served now, the default tokenizer first."""
        with _typed_errors():
            response = self._stub.ListTokenizers(pb.ListTokenizersRequest(), timeout=self._timeout, metadata=self._metadata())
        return read_tokenizers(response)

    def _stream(
        self,
        method: Callable[..., Any],
        source: Iterable[Item],
        build: Callable[[int, Item], Any],
        read: Callable[[Any], Result | ChannelTokError],
        in_flight: int,
    ) -> Generator[Result | ChannelTokError, None, None]:
        events: queue.SimpleQueue[Event[Result]] = queue.SimpleQueue()
        slots = threading.Semaphore(in_flight - 1)  # the first item needs none
        abandoned = threading.Event()

        def requests() -> Iterator[Any]:  # gRPC runs this in a thread of its own
            try:
                for number, item in enumerate(source):
                    request = build(number, item)
                    events.put(Sent(number))
                    if isinstance(request, ChannelTokError):
                        events.put(Answer(number, request))
                    else:
                        yield request
                    slots.acquire()
                    if abandoned.is_set():
                        return
            except Exception as error:
                events.put(SourceEnded(error))
            else:
                events.put(SourceEnded(None))

        def read_all() -> None:
            try:
                for response in call:
                    events.put(Answer(response.id, read(response)))
            except grpc.RpcError as error:
                events.put(CallEnded(from_rpc_error(error)))
            else:
                events.put(CallEnded(None))

        window: Window[Result] = Window(self._timeout)
        call = method(requests(), metadata=self._metadata())
        try:
            # Not joined: a stream dropped half-way is closed by the interpreter's exit, when daemon threads no longer run.
            threading.Thread(target=read_all, name="channeltok-stream", daemon=True).start()
            while not window.finished:
                try:
                    event = events.get(timeout=window.patience())
                except queue.Empty:
                    window.overdue()
                    continue
                for result in window.take(event):
                    slots.release()
                    yield result
        finally:
            abandoned.set()
            slots.release()
            call.cancel()


class AsyncClient:
    """`Client` for asyncio: the same methods to await, streams to iterate with `async for`.

    Make it inside the running event loop that will use it; `await close()` it, or use it with `async with`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout: float = 30.0,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        bearer_token: str | None = None,
    ) -> None:
        asyncio.get_running_loop()  # without one, grpc.aio would silently bind to a loop that never runs
        self._timeout = _checked_timeout(timeout)
        self._metadata = partial(_metadata, _authorization(bearer_token))
        self._channel = (
            grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        )
        self._stub = TokenizerStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def encode(self, picture: bytes, k: int | None = None, tokenizer: str | None = None) -> Tokens:
        """As `Client.encode`."""
        request = encode_request(picture, k, tokenizer)
        with _typed_errors():
            response = await self._stub.Encode(request, timeout=self._timeout, metadata=self._metadata())
        return read_tokens(response)

    async def decode(self, tokens: Tokens | bytes, format: PictureFormat = "png", tokenizer: str | None = None) -> bytes:
        """As `Client.decode`."""
        request = decode_request(tokens, format, tokenizer)
        with _typed_errors():
            response = await self._stub.Decode(request, timeout=self._timeout, metadata=self._metadata())
        return read_picture(response)

    def encode_stream(
        self, pictures: AsyncIterable[bytes] | Iterable[bytes], k: int | None = None, tokenizer: str | None = None, in_flight: int = 64
    ) -> AsyncGenerator[Tokens | ChannelTokError, None]:
        """As `Client.encode_stream`; `pictures` is read on the event loop, so one that blocks belongs into an async iterable."""
        check_k(k)

        build = partial(encode_item, k=k, tokenizer=tokenizer)
        return self._stream(self._stub.EncodeStream, pictures, build, read_encode_item, _checked_in_flight(in_flight))

    def decode_stream(
        self,
        tokens: AsyncIterable[Tokens | bytes] | Iterable[Tokens | bytes],
        format: PictureFormat = "png",
        tokenizer: str | None = None,
        in_flight: int = 64,
    ) -> AsyncGenerator[bytes | ChannelTokError, None]:
        """As `Client.decode_stream`; `tokens` is read on the event loop, so one that blocks belongs into an async iterable."""
        check_format(format)

        build = partial(decode_item, format=format, tokenizer=tokenizer)
        return self._stream(self._stub.DecodeStream, tokens, build, read_decode_item, _checked_in_flight(in_flight))

    async def tokenizers(self) -> list[TokenizerInfo]:
        """As `Client.tokenizers`."""
        with _typed_errors():
            response = await self._stub.ListTokenizers(pb.ListTokenizersRequest(), timeout=self._timeout, metadata=self._metadata())
        return read_tokenizers(response)

    async def _stream(
        self,
        method: Callable[..., Any],
        source: AsyncIterable[Item] | Iterable[Item],
        build: Callable[[int, Item], Any],
        read: Callable[[Any], Result | ChannelTokError],
        in_flight: int,
    ) -> AsyncGenerator[Result | ChannelTokError, None]:
        events: asyncio.Queue[Event[Result]] = asyncio.Queue()
        slots = asyncio.Semaphore(in_flight - 1)  # the first item needs none

        async def requests() -> AsyncIterator[Any]:  # gRPC runs this in a task of its own
            number = 0
            try:
                async for item in _each(source):
                    request = build(number, item)
                    events.put_nowait(Sent(number))
                    if isinstance(request, ChannelTokError):
                        events.put_nowait(Answer(number, request))
                    else:
                        yield request
                    number += 1
                    await slots.acquire()
            except Exception as error:
                events.put_nowait(SourceEnded(error))
            else:
                events.put_nowait(SourceEnded(None))

        async def read_all() -> None:
            try:
                async for response in call:
                    events.put_nowait(Answer(response.id, read(response)))
            except grpc.aio.AioRpcError as error:
                events.put_nowait(_end_of_stream([*ends, error]))
            else:
                events.put_nowait(CallEnded(None))

        window: Window[Result] = Window(self._timeout)
        call = method(requests(), metadata=self._metadata())
        ends: list[grpc.aio.AioRpcError] = []
        call.add_done_callback(lambda _: ends.append(_how_it_ended(call)))
        reader = asyncio.create_task(read_all())
        try:
            while not window.finished:
                try:
                    async with asyncio.timeout(window.patience()):
                        event = await events.get()
                except TimeoutError:
                    window.overdue()
                    continue
                for result in window.take(event):
                    slots.release()
                    yield result
        finally:
            call.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


async def _each(source: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


# When the service ends a stream while a message is being sent, grpc.aio replaces the status of the call with this one, or with this
# one first and then the true one. The status when the call was done and the status that reading raised are never both of it.
_STATUS_LOST = "Internal error from Core"


def _end_of_stream(ends: list[grpc.aio.AioRpcError]) -> CallEnded:
    for end in ends:
        if end.details() != _STATUS_LOST:
            return CallEnded(None if end.code() is grpc.StatusCode.OK else from_rpc_error(end))
    return CallEnded(Unavailable("UNAVAILABLE", "the service ended the stream"))


def _how_it_ended(call: Any) -> grpc.aio.AioRpcError:
    """The status of a call that is done, OK or not."""
    return grpc.aio.AioRpcError(_at_once(call.code()), grpc.aio.Metadata(), _at_once(call.trailing_metadata()), _at_once(call.details()))


def _at_once(ready: Coroutine[Any, Any, Any]) -> Any:
    # Awaiting would let the loop run on, and the status be replaced.
    try:
        ready.send(None)
    except StopIteration as done:
        return done.value
    ready.close()
    return None


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _metadata(authorization: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return (*authorization, *trace_context())


def _authorization(bearer_token: str | None) -> tuple[tuple[str, str], ...]:
    if bearer_token is None:
        return ()
    # gRPC would refuse it at the first call, in words that show it.
    if not bearer_token.isascii() or not bearer_token.isprintable() or not bearer_token.strip():
        raise ValueError("bearer_token is printable ASCII and not empty")
    return (("authorization", f"Bearer {bearer_token.strip()}"),)


def _checked_timeout(seconds: float) -> float:
    if not seconds > 0:
        raise ValueError(f"timeout is more than 0 seconds, not {seconds}")
    return seconds


def _checked_in_flight(items: int) -> int:
    if items < 1:
        raise ValueError(f"in_flight is at least 1 item, not {items}")
    return items
