"""A real gRPC server with a simple rule instead of a model, and faults on demand.

Token i of an image is its i-th byte, of pixels too; an image of n bytes counts as n x 1 pixels. A
decoded image is
the name of its format, its aspect unless that is square, a colon and the ids as bytes. The bytes of
the image (in Decode the ids as bytes) request a fault:

    fail:CODE       the error of that code with its details; OVERLOADED suggests a retry in 1.5 s;
                    gRPC is asked not to repeat the call
    busy:N:MS:...   UNAVAILABLE for the first N attempts; gRPC is asked to repeat the call in MS
    bare:STATUS     an error of that gRPC status without details, as from a proxy
    slow            no reply until the caller cancels
    garbage         a reply that holds no token bytes
    old             a reply without a view, as from an older service
and in streams only
    neither         a reply with neither result nor error
    twice           two replies
    stranger        a reply with an id that was not sent
    hang up         the stream ends with OK and everything unanswered
    die             the stream ends with UNAVAILABLE
    die N ...       the same for the first N calls that send it
    reject          the stream ends with OVERLOADED and its details
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from channeltok import Tokens
from channeltok._messages import MAX_MESSAGE_BYTES
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerServicer, add_TokenizerServicer_to_server
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

FINGERPRINT = "0123456789abcdef"
RETRY_AFTER = 1.5
PUSHBACK = "grpc-retry-pushback-ms"

STATUS_OF = {
    "BAD_IMAGE": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_K": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_TOKENS": grpc.StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_FORMAT": grpc.StatusCode.INVALID_ARGUMENT,
    "TOO_MANY_PIXELS": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "NO_SUCH_PATH": grpc.StatusCode.UNIMPLEMENTED,
    "TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNKNOWN_TOKENIZER": grpc.StatusCode.NOT_FOUND,
    "FINGERPRINT_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "ENGINE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "INTERNAL": grpc.StatusCode.INTERNAL,
    "FROM_THE_FUTURE": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def tokens_of(image: bytes) -> Tokens:
    """The tokens that the service makes of an image."""
    return Tokens(list(image), FINGERPRINT)


def status_of(code: str) -> status_pb2.Status:
    """The google.rpc.Status of a code, as the service sends it."""
    details = [error_details_pb2.ErrorInfo(reason=code, domain="channeltok")]
    if code == "OVERLOADED":
        details.append(
            error_details_pb2.RetryInfo(
                retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)
            )
        )
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(
        code=STATUS_OF[code].value[0], message=f"this is {code}", details=packed
    )


class _Fault(Exception):
    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status


class FaultyService(TokenizerServicer):
    def __init__(self) -> None:
        self.answered: list[int] = []  # ids of the last stream, in the order of the replies
        self.attempts: Counter[bytes] = Counter()  # how often each payload came
        self.answers: Counter[bytes] = Counter()  # how often each was answered in a stream

    def Encode(self, request: pb.EncodeRequest, context: grpc.ServicerContext) -> pb.EncodeResponse:
        return self._unary(_encode, request, _image(request), context)

    def Decode(self, request: pb.DecodeRequest, context: grpc.ServicerContext) -> pb.DecodeResponse:
        return self._unary(_decode, request, _payload(request), context)

    def EncodeStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        return self._stream(pb.EncodeStreamResponse, _encode, _image, requests, context)

    def DecodeStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        return self._stream(pb.DecodeStreamResponse, _decode, _payload, requests, context)

    def ListTokenizers(
        self, request: pb.ListTokenizersRequest, context: grpc.ServicerContext
    ) -> pb.ListTokenizersResponse:
        bytewise = pb.TokenizerInfo(
            name="bytewise",
            family="none",
            fingerprint=FINGERPRINT,
            max_tokens=256,
            bits_per_token=8,
            image_size=64,
            budgets=[32, 64, 256],
            relative_costs=[0.25, 0.5, 1],
        )
        other = pb.TokenizerInfo(
            name="another-one",
            family="none",
            fingerprint="f" * 16,
            max_tokens=8,
            bits_per_token=16,
            vocab_size=64_000,
            image_size=256,
        )
        return pb.ListTokenizersResponse(tokenizers=[bytewise, other])

    def _unary(
        self,
        serve: Callable[[Any], Any],
        request: Any,
        payload: bytes,
        context: grpc.ServicerContext,
    ) -> Any:
        self.attempts[payload] += 1
        if payload.startswith(b"bare:"):
            context.abort(grpc.StatusCode[payload[5:].decode()], "no details")
        if payload.startswith(b"busy:"):
            _, times, pushback, _ = payload.decode().split(":")
            if self.attempts[payload] <= int(times):
                context.set_trailing_metadata(((PUSHBACK, pushback),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        if payload == b"slow":
            while context.is_active():
                time.sleep(0.01)
        try:
            return serve(request)
        except _Fault as fault:
            status = rpc_status.to_status(fault.status)
            context.set_trailing_metadata((*status.trailing_metadata, (PUSHBACK, "-1")))
            context.abort(status.code, status.details)

    def _stream(
        self,
        make: Callable[..., Any],
        serve: Callable[[Any], Any],
        payload_of: Callable[[Any], bytes],
        requests: Iterator[Any],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        self.answered = []
        silent = False
        for item in _shuffled(requests):
            payload = payload_of(item.request)
            self.attempts[payload] += 1
            if payload == b"slow":
                silent = True
                continue
            if payload == b"hang up":
                return
            if payload == b"die":
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            if payload.startswith(b"die ") and self.attempts[payload] <= int(payload.split()[1]):
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            if payload == b"reject":
                context.abort_with_status(rpc_status.to_status(status_of("OVERLOADED")))
            if payload == b"neither":
                yield make(id=item.id)
                continue
            self.answered.append(item.id)
            self.answers[payload] += 1
            number = item.id + 1_000_000 if payload == b"stranger" else item.id
            try:
                answer = make(id=number, response=serve(item.request))
            except _Fault as fault:
                answer = make(id=number, error=fault.status)
            yield answer
            if payload == b"twice":
                yield answer
        while silent and context.is_active():
            time.sleep(0.01)


def start(service: FaultyService, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    """Start a server; returns it and its address."""
    limits = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=limits)
    add_TokenizerServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"


def _encode(request: pb.EncodeRequest) -> pb.EncodeResponse:
    image = _image(request)
    _raise_requested_fault(image)
    if request.tokenizer not in ("", "bytewise"):
        raise _Fault(status_of("UNKNOWN_TOKENIZER"))
    if request.HasField("k") and not 1 <= request.k <= len(image):
        raise _Fault(status_of("BAD_K"))
    if image == b"garbage":
        return pb.EncodeResponse(tokens=b"garbage")
    width = len(image)
    left = 0.0 if request.fit == pb.FIT_PAD else (width - 1) / 2
    view = pb.ImageView(width=width, height=1, left=left, top=0, right=width - left, bottom=1)
    tokens = tokens_of(image)
    if request.HasField("k"):
        tokens = tokens.prefix(request.k)
    return pb.EncodeResponse(
        tokenizer="bytewise",
        fingerprint=FINGERPRINT,
        k=tokens.k,
        tokens=tokens.to_bytes(),
        view=None if image == b"old" else view,
    )


def _decode(request: pb.DecodeRequest) -> pb.DecodeResponse:
    try:
        tokens = Tokens.from_bytes(request.tokens)
    except ValueError:
        raise _Fault(status_of("BAD_TOKENS")) from None
    if tokens.fingerprint != FINGERPRINT:
        raise _Fault(status_of("FINGERPRINT_MISMATCH"))
    payload = bytes(tokens.ids.tolist())
    _raise_requested_fault(payload)
    format = pb.ImageFormat.Name(request.format).removeprefix("IMAGE_FORMAT_").lower()
    aspect = request.aspect
    shape = f" {aspect.width}:{aspect.height}" if aspect.width != aspect.height else ""
    return pb.DecodeResponse(
        image=f"{format}{shape}:".encode() + payload,
        format=request.format,
        tokenizer="bytewise",
        k=tokens.k,
    )


def _image(request: pb.EncodeRequest) -> bytes:
    return bytes(request.pixels.rgb if request.HasField("pixels") else request.image)


def _payload(request: pb.DecodeRequest) -> bytes:
    try:
        return bytes(Tokens.from_bytes(request.tokens).ids.tolist())
    except ValueError:
        return b""


def _raise_requested_fault(payload: bytes) -> None:
    if payload.startswith(b"fail:"):
        raise _Fault(status_of(payload[5:].decode()))


def _shuffled(requests: Iterator[Any]) -> Iterator[Any]:
    """Requests four at a time, the last first; fewer when none arrives for 10 ms."""
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def receive() -> None:
        try:
            for request in requests:
                arrived.put(request)
        except Exception:  # the caller cancelled; grpc raises a bare Exception
            pass
        arrived.put(None)

    threading.Thread(target=receive, daemon=True).start()
    held: list[Any] = []
    ended = False
    while not ended:
        request = None
        try:
            request = arrived.get(timeout=0.01)
            ended = request is None
        except queue.Empty:
            pass
        if request is not None:
            held.append(request)
        if request is None or len(held) == 4:
            yield from reversed(held)
            held.clear()
