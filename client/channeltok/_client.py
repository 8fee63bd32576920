"""`channeltok.Client`: unary calls, streams and generation over a synchronous gRPC channel."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

import grpc
from typing_extensions import Self

from channeltok import _channel, _messages, generation
from channeltok._messages import ImageFormat, TokenizerInfo
from channeltok._reorder import CallEnded, Event, Outbox, Reply, Sent, SourceEnded, Window
from channeltok.errors import ChannelTokError, from_rpc_error, unless_error
from channeltok.fit import Aspect, Fit, check_aspect, check_fit
from channeltok.generation import GenerateParams, GenerationEvent, GeneratorInfo, Preview
from channeltok.images import Array, DecodedImage, ImageLike, images_of
from channeltok.quality import Quality
from channeltok.tokens import Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

Item = TypeVar("Item")
Result = TypeVar("Result")


class Client:
    """Encodes images to tokens and back, over gRPC. Thread-safe; close it or use it with `with`.

    Calls are repeated where that is safe, because the same image has the same tokens: `encode`,
    `decode` and the lists, after `Unavailable`, and after `Overloaded` when the service says so;
    streams go on with the first item that has no answer. A call is tried 5 times within its
    deadline, and what never left the machine more often. A service that has answered before is
    waited for while it is away; one that never has fails a call within 4 s. The errors come once
    that was in vain. `generate` and `decode_progressive` are never repeated.

    Args:
        target: a gRPC target, "127.0.0.1:50051" or "dns:///tokenizer.example:50051".
        timeout: seconds, above 0: the deadline of each call. In a stream, the longest wait for
            the next result while items are in flight.
        credentials: for TLS, `grpc.ssl_channel_credentials(root_certificates, private_key,
            certificate_chain)`: PEM bytes, all optional (default: the system's roots; key and
            chain are for mutual TLS). None: plain text.
        bearer_token: sent with every call. Without TLS anyone on the path can read it.
        retries: whether calls are repeated. False: every failure is an error at once.

    Raises:
        ValueError: an argument is out of range.

    Every method raises subclasses of `ChannelTokError`: InvalidInput, TooLarge, UnknownTokenizer,
    UnknownGenerator, FingerprintMismatch, Overloaded, Unauthenticated, DeadlineExceeded,
    Unavailable, InternalError.
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
        self._timeout = _channel.checked_timeout(timeout)
        self._metadata = _channel.metadata_of(bearer_token)
        self._retries = retries
        self._reached = False  # whether the service has ever answered
        self._closed = False
        options = _channel.options_for(target, retries)
        self._channel = (
            grpc.insecure_channel(target, options=options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=options)
        )
        self._stub = TokenizerStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        self._closed = True
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

    @overload
    def encode(
        self,
        image: Array,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Any: ...
    @overload
    def encode(
        self,
        image: ImageLike,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Tokens: ...
    @overload
    def encode(
        self,
        image: list[Any] | tuple[Any, ...],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> list[Tokens]: ...
    def encode(
        self,
        image: Any,
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Tokens | list[Tokens]:
        """Encode an image, or several, to the first k tokens.

        Args:
            image: bytes of a JPEG, PNG or WebP file, its path, a binary file object, a PIL image,
                or an array or tensor: uint8 [H, W, 3], or floats from 0 to 1; `channeltok.images`
                has the details. A list or tuple of them, or an array [N, H, W, 3], is a batch: it
                is sent as a stream.
            k: 1 to the tokenizer's max_tokens; None for all.
            tokenizer: a name from `tokenizers()`; None for the default one.
            quality: chooses k for this image, instead of `k`.
            fit: what the tokenizer sees: "crop", the centred square of the image, or "pad", the
                whole image with two bands that make it square.

        Returns:
            The tokens; of a batch a list, in its order. Their `view` says what was seen; with
            `quality`, their `curve` holds the quality at every k tried.

        Raises:
            InvalidInput: BAD_IMAGE, also for what is no image; UNSUPPORTED_FORMAT,
                TOO_MANY_PIXELS, BAD_K, or BAD_REQUEST for another `fit`, and for `k` together with
                `quality`.
            TooLarge: the image has too many bytes.
            UnknownTokenizer: no tokenizer has this name.
            ChannelTokError: the call failed for another reason. A batch fails as a whole, with the
                error of its first image that has one; `encode_stream` keeps the others.
        """
        batch = images_of(image)
        if batch is not None:
            with closing(
                self.encode_stream(batch, k, tokenizer, quality=quality, fit=fit)
            ) as results:
                return [unless_error(result) for result in results]
        request = _messages.encode_request(image, k, tokenizer, quality, fit)
        return self._call(self._stub.Encode, request, partial(_messages.read_tokens, fit=fit))

    def decode(
        self,
        tokens: Tokens | bytes,
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> DecodedImage:
        """Decode tokens to an image whose longer side has `image_size` pixels.

        Args:
            tokens: tokens or token bytes.
            format: "png", "jpeg" or "webp".
            tokenizer: a name from `tokenizers()`; None for the one that made the tokens.
            aspect: width and height of the original that was encoded with `fit="pad"`, in pixels
                or any other unit, 1 to 1,000,000: the bands are removed. (1, 1) gives the square as
                it was decoded. None: as `tokens.view` says, and the square without it.

        Returns:
            The bytes of an image file, which are also a PIL image, an array or a tensor: by
            `as_pil()`, `as_numpy()` and `as_tensor()`.

        Raises:
            InvalidInput: BAD_TOKENS, UNSUPPORTED_FORMAT, or BAD_REQUEST for `aspect`.
            FingerprintMismatch: the tokenizer that made the tokens is not served, or is not
                `tokenizer`.
            ChannelTokError: the call failed for another reason.
        """
        request = _messages.decode_request(tokens, format, tokenizer, aspect)
        return self._call(self._stub.Decode, request, _messages.read_image)

    def decode_progressive(
        self,
        tokens: Tokens | bytes,
        ks: Sequence[int],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[Preview, None, None]:
        """Decode several prefixes of the same tokens in one call, as one batch of the engine.

        Closing the iterator stops the work. The client's timeout is the deadline of the whole call.

        Args:
            tokens: as in `decode`.
            ks: lengths of the prefixes: 1 to 32 different values, each 1 to the number of tokens.
            format: as in `decode`.
            tokenizer: as in `decode`.
            aspect: as in `decode`.

        Yields:
            For each k, in the order of `ks`, the image that `decode` makes of the first k tokens.

        Raises:
            InvalidInput: BAD_K, or as in `decode`.
            FingerprintMismatch, ChannelTokError: as in `decode`.
        """
        request = _messages.decode_progressive_request(tokens, ks, format, tokenizer, aspect)
        return self._previews(request)

    def _previews(self, request: pb.DecodeProgressiveRequest) -> Generator[Preview, None, None]:
        with closing(self._replies(self._stub.DecodeProgressive, request)) as replies:
            yield from filter(None, map(generation.read_preview, replies))

    def encode_stream(
        self,
        images: Iterable[ImageLike],
        k: int | None = None,
        tokenizer: str | None = None,
        in_flight: int = 64,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """Encode many images over one call, with results in the order of the images.

        A bad image does not end the stream: its error is yielded in its place.

        Args:
            images: each as in `encode`. May be endless; read in another thread, at most
                `in_flight` items ahead of the results that were taken. An image is held until it
                has its answer.
            k: as in `encode`.
            tokenizer: as in `encode`.
            in_flight: how many images may be sent and unanswered, at least 1.
            quality: as in `encode`.
            fit: as in `encode`.

        Yields:
            For each image its tokens, or the error it failed with.

        Raises:
            ChannelTokError: the stream itself ended, with Unavailable, DeadlineExceeded, ...
            ValueError: `in_flight` is below 1.
            Exception: whatever iterating `images` raises, after all earlier results.
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
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        in_flight: int = 64,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[DecodedImage | ChannelTokError, None, None]:
        """Decode many token sequences over one call, with results in their order.

        Args:
            tokens: tokens or token bytes, read as `images` in `encode_stream`.
            format: as in `decode`.
            tokenizer: as in `decode`.
            in_flight: how many sequences may be sent and unanswered, at least 1.
            aspect: as in `decode`, for all. None: each as its own `view` says.

        Yields:
            For each sequence its image, as from `decode`, or the error it failed with.

        Raises:
            ChannelTokError, ValueError, Exception: as `encode_stream`.
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

    def tokenizers(self) -> list[TokenizerInfo]:
        """List the tokenizers that are served now, the default one first.

        Raises:
            ChannelTokError: the call failed.
        """
        return self._call(
            self._stub.ListTokenizers, pb.ListTokenizersRequest(), _messages.read_tokenizers
        )

    def generate(self, params: GenerateParams) -> Generator[GenerationEvent, None, None]:
        """Generate an image token by token.

        Closing the iterator stops the work. The client's timeout is the deadline of the whole call.

        Args:
            params: what to generate.

        Yields:
            `Started`, then `NewTokens` and `Preview`s as they are made, then `Generated` with the
            whole sequence, to pass to `decode`.

        Raises:
            InvalidInput: BAD_K, BAD_TOKENS, BAD_SAMPLING, UNKNOWN_CLASS, BAD_PROMPT or
                BAD_REQUEST.
            UnknownGenerator: no generator has this name, or none is served.
            FingerprintMismatch: the prefix is of another tokenizer.
            ChannelTokError: the call failed for another reason, perhaps on the way.
        """
        return self._events(generation.generate_request(params))

    def _events(self, request: pb.GenerateRequest) -> Generator[GenerationEvent, None, None]:
        with closing(self._replies(self._stub.Generate, request)) as replies:
            yield from map(generation.read_event, replies)

    def _replies(self, method: Callable[..., Any], request: Any) -> Generator[Any, None, None]:
        call = method(request, timeout=self._timeout, metadata=self._metadata())
        try:
            with _channel.typed_errors():
                yield from call
        finally:
            call.cancel()

    def generators(self) -> list[GeneratorInfo]:
        """List the generators that are served now, the default one first; may be empty.

        Raises:
            ChannelTokError: the call failed.
        """
        return self._call(
            self._stub.ListGenerators, pb.ListGeneratorsRequest(), generation.read_generators
        )

    def _call(
        self, method: Callable[..., Any], request: Any, read: Callable[[Any], Result]
    ) -> Result:
        with _channel.typed_errors():
            response = method(
                request,
                timeout=self._timeout,
                metadata=self._metadata(),
                wait_for_ready=self._waits,
            )
        self._reached = True
        return read(response)

    @property
    def _waits(self) -> bool:
        """Whether a call waits for a connection."""
        # A wrong address should be an error soon, and not once the deadline has passed.
        return self._retries and self._reached

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
        outbox: Outbox[queue.SimpleQueue[Any]] = Outbox(queue.SimpleQueue)

        def read_source() -> None:
            try:
                for number, item in enumerate(source):
                    request = build(number, item)
                    events.put(Sent(number))
                    if isinstance(request, ChannelTokError):
                        events.put(Reply(number, request))
                    else:
                        outbox.send(number, request)
                    slots.acquire()
                    if abandoned.is_set():
                        return
            except Exception as error:
                events.put(SourceEnded(error))
            else:
                events.put(SourceEnded(None))
            outbox.close()

        def read_replies(call: Any) -> None:
            try:
                for response in call:
                    self._reached = True
                    events.put(Reply(response.id, read(response)))
            except grpc.RpcError as error:
                events.put(CallEnded(from_rpc_error(error)))
            else:
                events.put(CallEnded(None))

        def start_call() -> Any:
            requests = iter(outbox.next_call().get, None)
            call = method(requests, metadata=self._metadata(), wait_for_ready=self._waits)
            _start_thread(read_replies, call)
            return call

        window: Window[Result] = Window(self._timeout, self._retries)
        call = start_call()
        try:
            _start_thread(read_source)
            while not window.finished:
                try:
                    event = events.get(timeout=window.remaining())
                except queue.Empty:
                    window.time_out()
                    continue
                if not self._closed and (delay := window.delay(event)) is not None:
                    time.sleep(delay)
                    call = start_call()
                    continue
                if isinstance(event, Reply):
                    outbox.forget(event.number)
                for result in window.take(event):
                    slots.release()
                    yield result
        finally:
            abandoned.set()
            slots.release()
            outbox.close()
            call.cancel()


def _start_thread(work: Callable[..., None], *args: Any) -> None:
    # Not joined: the interpreter may close a dropped stream when daemon threads have ended.
    threading.Thread(target=work, args=args, name="channeltok-stream", daemon=True).start()
