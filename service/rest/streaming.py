"""A response that is streamed: it ends with its client, and with the client's token."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.core.memory import Holder, MemoryBudget
from service.core.rate_limit import caller
from service.errors import ServiceError
from service.security.auth import Authenticator

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would hold it back
}


class Chunks(Protocol):
    """An iterator of what is sent; closing it stops the work."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class GuardedStream(StreamingResponse):
    """Closes its iterator as soon as the client disconnects or its token is removed, which stops
    the work at once."""

    def __init__(
        self,
        chunks: Chunks,
        media_type: str,
        authenticator: Authenticator,
        last: Callable[[Exception], bytes],
        memory: MemoryBudget | None = None,
        holder: Holder | None = None,
    ) -> None:
        """last: the last chunk of a stream that ends with an error. memory, holder: of the bytes
        that wait for the client; where others need them, a client that reads slowly gets an error.
        """
        super().__init__(aiter(chunks), media_type=media_type, headers=_HEADERS)
        self._chunks = chunks
        self._authenticator = authenticator
        self._last = last
        self._memory, self._holder = memory, holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def transfer(message: Message) -> None:
            if self._memory is None or self._holder is None:
                await send(message)
                return
            async with self._memory.transfer(None, self._holder):
                await send(message)

        try:
            try:
                async with self._authenticator.while_accepted(caller.get(), scope["path"]):
                    await super().__call__(scope, receive, transfer)
            finally:
                await self._chunks.aclose()
        except ServiceError as error:
            await send({"type": "http.response.body", "body": self._last(error)})
