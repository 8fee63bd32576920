"""The gRPC face: translates between the contract and tokenization, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import grpc
from channeltok.quality import Quality
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from service.core.admission import Admission, Priority
from service.core.generation import Generation
from service.core.tokenization import Tokenization
from service.errors import BadRequest, DeadlineExceeded, UnsupportedFormat
from service.grpc import messages
from service.grpc.entrance import GuardedServer
from service.grpc.errors import status_of
from service.security.auth import Authenticator
from service.settings import Settings

Context: TypeAlias = grpc.aio.ServicerContext
SERVICE = pb.DESCRIPTOR.services_by_name["Tokenizer"].full_name
MESSAGE_OVERHEAD = 4096  # so that an image of exactly the allowed size fits into its message

_PILLOW_NAMES = {
    pb.IMAGE_FORMAT_PNG: "PNG",
    pb.IMAGE_FORMAT_JPEG: "JPEG",
    pb.IMAGE_FORMAT_WEBP: "WEBP",
}
_Item = TypeVar("_Item")
_Reply = TypeVar("_Reply", bound=Message)


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServicer):
    """The methods; what they raise the entrance tells the caller."""

    def __init__(
        self, tokenization: Tokenization, generation: Generation, settings: Settings
    ) -> None:
        self._tokenization = tokenization
        self._generation = generation
        self._settings = settings

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        return await self._encode(request, "encode", self._time_left(context), Priority.INTERACTIVE)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        return await self._decode(request, "decode", self._time_left(context), Priority.INTERACTIVE)

    async def EncodeStream(
        self, requests: AsyncIterator[pb.EncodeStreamRequest], context: Context
    ) -> AsyncIterator[pb.EncodeStreamResponse]:
        async for reply in self._stream(
            requests, context, self._encode, "encode_stream", pb.EncodeStreamResponse
        ):
            yield reply

    async def DecodeStream(
        self, requests: AsyncIterator[pb.DecodeStreamRequest], context: Context
    ) -> AsyncIterator[pb.DecodeStreamResponse]:
        async for reply in self._stream(
            requests, context, self._decode, "decode_stream", pb.DecodeStreamResponse
        ):
            yield reply

    async def ListTokenizers(
        self, request: pb.ListTokenizersRequest, context: Context
    ) -> pb.ListTokenizersResponse:
        return pb.ListTokenizersResponse(
            tokenizers=[
                pb.TokenizerInfo(
                    name=tokenizer.name,
                    family=tokenizer.family,
                    fingerprint=tokenizer.fingerprint,
                    max_tokens=tokenizer.max_tokens,
                    bits_per_token=tokenizer.bits_per_token,
                    vocab_size=tokenizer.vocab_size,
                    image_size=tokenizer.image_size,
                    budgets=list(tokenizer.decoders),
                )
                for tokenizer in self._tokenization.tokenizers
            ]
        )

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        wanted = messages.wanted(
            request, _pillow_name(request.preview_format or pb.IMAGE_FORMAT_PNG)
        )
        async with aclosing(self._generation.generate(wanted, self._time_left(context))) as events:
            async for event in events:
                yield messages.reply(event)

    async def ListGenerators(
        self, request: pb.ListGeneratorsRequest, context: Context
    ) -> pb.ListGeneratorsResponse:
        return pb.ListGeneratorsResponse(generators=map(messages.info, self._generation.generators))

    async def _encode(
        self, request: pb.EncodeRequest, rpc: str, timeout: float, priority: Priority
    ) -> pb.EncodeResponse:
        k = request.k if request.HasField("k") else None
        quality = _quality(request.quality) if request.HasField("quality") else None
        encoded = await self._tokenization.encode(
            request.image,
            k,
            request.tokenizer,
            quality=quality,
            rpc=rpc,
            timeout=timeout,
            priority=priority,
        )
        return pb.EncodeResponse(
            tokenizer=encoded.tokenizer.name,
            fingerprint=encoded.tokenizer.fingerprint,
            k=encoded.tokens.k,
            tokens=encoded.tokens.to_bytes(),
            stages=messages.stage_times(encoded.stages),
            engine=encoded.engine,
            curve=[pb.QualityPoint(k=one.k, ssim=one.ssim, psnr=one.psnr) for one in encoded.curve],
        )

    async def _decode(
        self, request: pb.DecodeRequest, rpc: str, timeout: float, priority: Priority
    ) -> pb.DecodeResponse:
        format = request.format or pb.IMAGE_FORMAT_PNG
        name = _pillow_name(format)
        decoded = await self._tokenization.decode(
            request.tokens, name, request.tokenizer, rpc=rpc, timeout=timeout, priority=priority
        )
        return pb.DecodeResponse(
            image=decoded.image,
            format=format,
            tokenizer=decoded.tokenizer.name,
            k=decoded.k,
            stages=messages.stage_times(decoded.stages),
            engine=decoded.engine,
        )

    def _stream(
        self,
        requests: AsyncIterator[Any],
        context: Context,
        handle: Callable[..., Awaitable[Any]],
        rpc: str,
        reply: type[_Reply],
    ) -> AsyncIterator[_Reply]:
        """Each item's reply has its id and either a response or the error of this item alone."""

        async def answer(item: Any) -> _Reply:
            try:
                return reply(
                    id=item.id,
                    response=await handle(
                        item.request, rpc, self._time_left(context), Priority.BULK
                    ),
                )
            except Exception as error:
                return reply(id=item.id, error=status_of(error))

        return _answer_all(
            requests, answer, self._settings.stream_window, self._tokenization.admission
        )

    def _time_left(self, context: Context) -> float:
        remaining = context.time_remaining()
        if remaining is None:
            return self._settings.request_timeout_seconds
        if remaining <= 0:
            raise DeadlineExceeded("the deadline passed before the work began")
        return float(min(remaining, 10 * self._settings.request_timeout_seconds))


class GrpcServer:
    """The aio server with health and reflection. Health answers on the event loop and never waits behind work."""

    def __init__(
        self,
        tokenization: Tokenization,
        generation: Generation,
        settings: Settings,
        access: Authenticator,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """credentials: of TLS; plain text without."""
        limit = (
            settings.max_message_bytes + MESSAGE_OVERHEAD
        )  # of a compressed message it counts what comes out
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.max_metadata_size", settings.max_header_bytes),
                ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
                ("grpc.max_concurrent_streams", settings.max_streams),
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.server_handshake_timeout_ms", int(settings.receive_seconds * 1000)),
                ("grpc.max_connection_idle_ms", int(settings.idle_seconds * 1000)),
                (
                    "grpc.keepalive_time_ms",
                    60_000,
                ),  # our ping, so that connections to hosts that are gone are found and freed
                (
                    "grpc.http2.min_ping_interval_without_data_ms",
                    30_000,
                ),  # callers' pings; after two too early ones it hangs up
                (
                    "grpc.so_reuseport",
                    int(settings.reuse_port),
                ),  # a second service on the same port must fail, not share it
                *(
                    [("grpc.max_connection_age_ms", int(settings.grpc_connection_seconds * 1000))]
                    if settings.grpc_connection_seconds
                    else []
                ),
            ],
        )
        self._health = health.aio.HealthServicer()
        entrance = GuardedServer(self._server, access, settings.receive_seconds, surrounded=SERVICE)
        tokenizer_pb2_grpc.add_TokenizerServicer_to_server(
            TokenizerServicer(tokenization, generation, settings), entrance
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, entrance)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names), entrance
        )
        address = f"{settings.host}:{settings.grpc_port}"
        self.port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )

    async def start(self) -> None:
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, ready: bool) -> None:
        """What grpc.health.v1 answers, for the server as a whole and for the service."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if ready
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """No new calls; those accepted get `grace` seconds."""
        await self._server.stop(grace)


async def _answer_all(
    requests: AsyncIterator[_Item],
    answer: Callable[[_Item], Awaitable[_Reply]],
    window: int,
    admission: Admission,
) -> AsyncIterator[_Reply]:
    """Replies as they are ready, at most `window` items in flight: a place is free again when its reply was sent, not when it is ready,
    so that a caller who does not read stops being read.

    Once `admission` is closed no more is read: what was read is answered, and then Stopping is raised. `answer` must not raise.
    """
    replies: asyncio.Queue[_Reply | None] = asyncio.Queue()
    places = asyncio.Semaphore(window)
    answers: set[asyncio.Task[None]] = set()

    async def answer_one(item: _Item) -> None:
        replies.put_nowait(await answer(item))

    async def read() -> None:
        async for item in requests:
            await places.acquire()
            task = asyncio.create_task(answer_one(item))
            answers.add(task)
            task.add_done_callback(answers.discard)

    reader, stop = asyncio.create_task(read()), asyncio.create_task(admission.closed.wait())

    async def finish() -> None:
        try:
            await asyncio.wait({reader, stop}, return_when=asyncio.FIRST_COMPLETED)
            cut_off = not reader.done()
            reader.cancel()
            await asyncio.gather(*answers)
            if cut_off:
                admission.refuse_if_closed()
            reader.result()
        finally:
            replies.put_nowait(None)

    finishing = asyncio.create_task(finish())
    try:
        while (reply := await replies.get()) is not None:
            yield reply
            places.release()
        await finishing
    finally:
        for task in (finishing, reader, stop, *answers):
            task.cancel()


def _pillow_name(format: pb.ImageFormat) -> str:
    name = _PILLOW_NAMES.get(format)
    if name is None:
        raise UnsupportedFormat(f"image format {format} is unknown; 1 is PNG, 2 JPEG, 3 WebP")
    return name


def _quality(given: pb.Quality) -> Quality:
    try:
        return Quality(**{field.name: value for field, value in given.ListFields()})
    except ValueError as error:
        raise BadRequest(str(error)) from error
