"""The methods of the gRPC Tokenizer service, which translate between protobuf and service.core."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import grpc
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc

from service.core.admission import Priority
from service.core.generation import Generation
from service.core.tokenization import Tokenization
from service.errors import DeadlineExceeded
from service.grpc import messages
from service.grpc.errors import to_status
from service.grpc.streams import Source, reply_to_each
from service.settings import Settings

Context: TypeAlias = grpc.aio.ServicerContext
_MAX_DEADLINE = 10  # longest deadline a client can set, in units of request_timeout_seconds
_Reply = TypeVar("_Reply", pb.EncodeStreamResponse, pb.DecodeStreamResponse)


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServicer):
    """Methods may raise any exception: service/grpc/entrance.py turns it into a status."""

    def __init__(
        self, tokenization: Tokenization, generation: Generation, settings: Settings
    ) -> None:
        self._tokenization = tokenization
        self._generation = generation
        self._settings = settings

    def Encode(self, request: pb.EncodeRequest, context: Context) -> Awaitable[pb.EncodeResponse]:
        return self._encode(request, "encode", self._time_left(context), Priority.INTERACTIVE)

    def Decode(self, request: pb.DecodeRequest, context: Context) -> Awaitable[pb.DecodeResponse]:
        return self._decode(request, "decode", self._time_left(context), Priority.INTERACTIVE)

    async def DecodeProgressive(
        self, request: pb.DecodeProgressiveRequest, context: Context
    ) -> AsyncIterator[pb.DecodeProgressiveResponse]:
        decode = request.request
        decoding = self._tokenization.decode_progressive(
            decode.tokens,
            request.k,
            messages.pillow_format(decode.format),
            decode.tokenizer,
            aspect=messages.read_aspect(decode),
            timeout=self._time_left(context),
        )
        async with aclosing(decoding) as events:
            async for event in events:
                yield messages.decode_progressive_response(event)

    async def EncodeStream(
        self, requests: Source[pb.EncodeStreamRequest], context: Context
    ) -> AsyncIterator[pb.EncodeStreamResponse]:
        async for reply in self._stream(
            requests, context, self._encode, "encode_stream", pb.EncodeStreamResponse
        ):
            yield reply

    async def DecodeStream(
        self, requests: Source[pb.DecodeStreamRequest], context: Context
    ) -> AsyncIterator[pb.DecodeStreamResponse]:
        async for reply in self._stream(
            requests, context, self._decode, "decode_stream", pb.DecodeStreamResponse
        ):
            yield reply

    async def ListTokenizers(
        self, request: pb.ListTokenizersRequest, context: Context
    ) -> pb.ListTokenizersResponse:
        tokenizers = self._tokenization.tokenizers
        return messages.list_tokenizers_response(served.info() for served in tokenizers)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        params = await self._generation.params(**messages.read_generate_request(request))
        async with aclosing(self._generation.generate(params, self._time_left(context))) as events:
            async for event in events:
                yield messages.generate_response(event)

    async def ListGenerators(
        self, request: pb.ListGeneratorsRequest, context: Context
    ) -> pb.ListGeneratorsResponse:
        generators = self._generation.generators
        return messages.list_generators_response(served.info() for served in generators)

    async def _encode(
        self, request: pb.EncodeRequest, rpc: str, timeout: float, priority: Priority
    ) -> pb.EncodeResponse:
        quality = messages.read_quality(request.quality) if request.HasField("quality") else None
        encoded = await self._tokenization.encode(
            messages.read_image(request),
            request.k if request.HasField("k") else None,
            request.tokenizer,
            quality=quality,
            fit=messages.read_fit(request.fit),
            rpc=rpc,
            timeout=timeout,
            priority=priority,
        )
        return messages.encode_response(encoded)

    async def _decode(
        self, request: pb.DecodeRequest, rpc: str, timeout: float, priority: Priority
    ) -> pb.DecodeResponse:
        format = messages.pillow_format(request.format)
        decoded = await self._tokenization.decode(
            request.tokens,
            format,
            request.tokenizer,
            aspect=messages.read_aspect(request),
            rpc=rpc,
            timeout=timeout,
            priority=priority,
        )
        return messages.decode_response(decoded, request.format or pb.IMAGE_FORMAT_PNG)

    def _stream(
        self,
        requests: Source[Any],
        context: Context,
        method: Callable[..., Awaitable[Any]],
        rpc: str,
        reply: type[_Reply],
    ) -> AsyncIterator[_Reply]:
        """Each item's reply has its id and either a response or the error of this item alone."""

        async def handle(item: Any) -> _Reply:
            try:
                timeout = self._time_left(context)
                response = await method(item.request, rpc, timeout, Priority.BULK)
            except Exception as error:
                return reply(id=item.id, error=to_status(error))
            return reply(id=item.id, response=response)

        return reply_to_each(
            requests, handle, self._settings.stream_window, self._tokenization.admission
        )

    def _time_left(self, context: Context) -> float:
        """Seconds until the call's deadline. Raises DeadlineExceeded."""
        remaining = context.time_remaining()
        if remaining is None:
            return self._settings.request_timeout_seconds
        if remaining <= 0:
            raise DeadlineExceeded("the deadline passed before the work began")
        return float(min(remaining, _MAX_DEADLINE * self._settings.request_timeout_seconds))
