"""The typed client; `channeltok.async_client` has the same for asyncio.

Neither repeats a call by itself: whoever calls knows what a second try is worth, and `Overloaded.retry_after` and `Unavailable` say
when it makes sense. What gRPC does below is reconnect, at most 2 s after the last attempt, and send again what never left the machine.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from channeltok._channel import (
    CHANNEL_OPTIONS,
    DEFAULT_TARGET,
    checked_in_flight,
    checked_timeout,
    metadata_of,
    typed_errors,
)
from channeltok._messages import (
    ImageFormat,
    TokenizerInfo,
    check_format,
    check_k,
    decode_item,
    decode_request,
    encode_item,
    encode_request,
    read_decode_item,
    read_encode_item,
    read_image,
    read_tokenizers,
    read_tokens,
)
from channeltok._reorder import Answer, CallEnded, Event, Sent, SourceEnded, Window
from channeltok.errors import ChannelTokError, from_rpc_error
from channeltok.generation import (
    GenerateParams,
    GenerationEvent,
    GeneratorInfo,
    generate_request,
    read_event,
    read_generators,
)
from channeltok.quality import Quality
from channeltok.tokens import Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

Item = TypeVar("Item")
Result = TypeVar("Result")


class Client:
    """Images to tokens and back, over gRPC. Safe to share between threads; close it, or use it as a context manager.

    target: a gRPC target such as "127.0.0.1:50051" or "dns:///tokenizer.example:50051".
    timeout: seconds, above 0: the deadline of each call. For a stream, the longest wait for the next answer while items are in flight.
    credentials: for TLS, `grpc.ssl_channel_credentials(root_certificates, private_key, certificate_chain)`, all PEM bytes and optional
    (system roots; the latter two for mutual TLS). None: plain text.
    bearer_token: sent with every call. Without credentials whoever listens on the way can read it.

    Every method raises ChannelTokError subclasses: InvalidInput, TooLarge, UnknownTokenizer, UnknownGenerator, FingerprintMismatch,
    Overloaded, Unauthenticated, DeadlineExceeded, Unavailable, InternalError. No call is repeated automatically.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout: float = 30.0,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        bearer_token: str | None = None,
    ) -> None:
        self._timeout = checked_timeout(timeout)
        self._metadata = metadata_of(bearer_token)
        self._channel = (
            grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        )
        self._stub = TokenizerStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def encode(
        self,
        image: bytes,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
    ) -> Tokens:
        """The first k tokens of an image.

        image: the bytes of a JPEG, PNG or WebP. k: 1 to the tokenizer's max_tokens; None: all of them. tokenizer: a name from
        `tokenizers()`; None: the default one. quality: instead of k, what the image must be like; `curve` of the result says what it is.
        """
        request = encode_request(image, k, tokenizer, quality)
        with typed_errors():
            response = self._stub.Encode(request, timeout=self._timeout, metadata=self._metadata())
        return read_tokens(response)

    def decode(
        self, tokens: Tokens | bytes, format: ImageFormat = "png", tokenizer: str | None = None
    ) -> bytes:
        """The image that the tokens (or token bytes) stand for, as the bytes of a PNG, JPEG or WebP, `image_size` pixels square.

        tokenizer: a name from `tokenizers()`; None: the one that made the tokens.
        """
        request = decode_request(tokens, format, tokenizer)
        with typed_errors():
            response = self._stub.Decode(request, timeout=self._timeout, metadata=self._metadata())
        return read_image(response)

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        in_flight: int = 64,
        *,
        quality: Quality | None = None,
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """Many images over one call: for each, in the order given, its tokens or the error it failed with.

        A bad image costs its own place only: its error is yielded, not raised. What is raised is what ends the stream: Unavailable,
        DeadlineExceeded and the like, or whatever `images` itself raised, after the results of all that came before it.

        images: may be endless. It is read in another thread, never more than `in_flight` items ahead of the results taken.
        """
        check_k(k)

        build = partial(encode_item, k=k, tokenizer=tokenizer, quality=quality)
        return self._stream(
            self._stub.EncodeStream, images, build, read_encode_item, checked_in_flight(in_flight)
        )

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        in_flight: int = 64,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """Many token sequences over one call: for each, in the order given, its image or the error it failed with.

        By the same rules as `encode_stream`.
        """
        check_format(format)

        build = partial(decode_item, format=format, tokenizer=tokenizer)
        return self._stream(
            self._stub.DecodeStream, tokens, build, read_decode_item, checked_in_flight(in_flight)
        )

    def tokenizers(self) -> list[TokenizerInfo]:
        """What is served now, the default tokenizer first."""
        with typed_errors():
            response = self._stub.ListTokenizers(
                pb.ListTokenizersRequest(), timeout=self._timeout, metadata=self._metadata()
            )
        return read_tokenizers(response)

    def generate(self, params: GenerateParams) -> Generator[GenerationEvent, None, None]:
        """Generate an image token by token.

        Yields `Started`, then `NewTokens` and `Preview`s as they are made, then `Generated` with the
        whole sequence (pass its tokens to `decode`). Closing the iterator stops the work; the
        client's timeout is the deadline of the whole call.

        Args:
            params: what to generate.

        Raises:
            ChannelTokError: from the first `next`, or later if generation fails on the way.
        """
        return self._events(generate_request(params))

    def _events(self, request: pb.GenerateRequest) -> Generator[GenerationEvent, None, None]:
        call = self._stub.Generate(request, timeout=self._timeout, metadata=self._metadata())
        try:
            with typed_errors():
                yield from map(read_event, call)
        finally:
            call.cancel()

    def generators(self) -> list[GeneratorInfo]:
        """What generates now, the default generator first; empty where none is served."""
        with typed_errors():
            response = self._stub.ListGenerators(
                pb.ListGeneratorsRequest(), timeout=self._timeout, metadata=self._metadata()
            )
        return read_generators(response)

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
