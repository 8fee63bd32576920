"""Background clients that keep a service busy during an attack and record every outcome.

Closed loop: each client sends its next call when the last one has been answered. Tokens that come
back are decoded next, so that both engines are busy.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import aiohttp
from channeltok import AsyncClient, ChannelTokError, Client, Tokens

from loadtest.harness import images
from loadtest.harness.service_process import Service, eventually

IMAGES = images.originals()
CANNOT_CONNECT = "CANNOT_CONNECT"  # the port is closed: no call was made
NOT_ACCEPTED = ("STOPPING", CANNOT_CONNECT)
OK = "OK"
PAUSE = 0.05  # after an error, so that a service that refuses at once is not flooded
KINDS = tuple(
    f"{role} {protocol}" for role in ("encode", "decode") for protocol in ("grpc", "rest", "stream")
)
# (fingerprint, "encode" or "decode", index of the image) -> token bytes or JPEG
Expected: TypeAlias = dict[tuple[str, str, int], bytes]


@dataclass(frozen=True)
class Outcome:
    """How a call, or an item of a stream, ended.

    kind: one of KINDS. image: index in IMAGES. sent, finished: time.monotonic(). code: OK or an
    error code. answer: token bytes or a JPEG. fingerprint: of the tokens received or sent.
    """

    kind: str
    image: int
    sent: float
    finished: float
    code: str
    answer: bytes = b""
    fingerprint: str = ""


def expected_answers(service: Service) -> Expected:
    """Answers of the service while it is undisturbed."""
    expected: Expected = {}
    with Client(service.grpc) as client:
        for number, image in enumerate(IMAGES):
            tokens = client.encode(image)
            expected[tokens.fingerprint, "encode", number] = tokens.to_bytes()
            expected[tokens.fingerprint, "decode", number] = client.decode(tokens, "jpeg")
    return expected


def count_wrong(outcomes: Iterable[Outcome], expected: Expected) -> int:
    """Number of answers that differ from the expected ones."""
    return sum(
        outcome.answer
        != expected.get((outcome.fingerprint, outcome.kind.split()[0], outcome.image))
        for outcome in outcomes
        if outcome.code == OK
    )


class Clients:
    """`pairs` clients per protocol that encode and then decode, and an endless stream of each kind.

    They run inside `with`. timeout: seconds after which a call counts as hung, with the code
    DEADLINE_EXCEEDED. stop_when_refused: a client ends once the service is stopping or its port is
    closed.
    """

    def __init__(
        self,
        service: Service,
        *,
        pairs: int = 2,
        timeout: float = 15.0,
        stop_when_refused: bool = False,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.in_flight = 0
        self._service, self._pairs, self._timeout = service, pairs, timeout
        self._stop_when_refused = stop_when_refused
        self._stop = threading.Event()
        self._latest: dict[int, Tokens] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        started = time.monotonic()
        self._thread.start()
        eventually(lambda: self.all_kinds_ok_since(started), 60, "a result of every kind of call")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self._timeout + 20)

    def all_kinds_ok_since(self, since: float) -> bool:
        """Whether a call of every kind that was sent after `since` (time.monotonic()) succeeded."""
        succeeded = {
            outcome.kind
            for outcome in reversed(self.outcomes[:])
            if outcome.code == OK and outcome.sent > since
        }
        return len(succeeded) == len(KINDS)

    def ended(self, seconds: float) -> bool:
        """Whether all clients end within `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(self._timeout)
        async with (
            AsyncClient(self._service.grpc, self._timeout, retries=False) as client,
            aiohttp.ClientSession(self._service.rest, timeout=timeout) as session,
        ):
            # A process's gRPC channels to one address share a connection, so one client is enough.
            grpc = [self._pair(number, "grpc", _Grpc(client)) for number in range(self._pairs)]
            rest = [self._pair(number, "rest", _Rest(session)) for number in range(self._pairs)]
            await asyncio.gather(
                *grpc, *rest, self._stream("encode", client), self._stream("decode", client)
            )

    async def _pair(self, number: int, protocol: str, client: "_Grpc | _Rest") -> None:
        while not self._stop.is_set():
            number += 1
            image = number % len(IMAGES)
            call = client.encode(IMAGES[image])
            tokens, goes_on = await self._call(f"encode {protocol}", image, call)
            if tokens is not None and goes_on:
                self._latest[image] = tokens
                decode = client.decode(tokens)
                _, goes_on = await self._call(
                    f"decode {protocol}", image, decode, tokens.fingerprint
                )
            if not goes_on:
                return

    async def _call(
        self, kind: str, image: int, call: Coroutine[Any, Any, Any], fingerprint: str = ""
    ) -> tuple[Any, bool]:
        """(answer or None, whether the client goes on)"""
        sent = time.monotonic()
        self.in_flight += 1
        try:
            answer = await call
        except (ChannelTokError, aiohttp.ClientError, TimeoutError) as error:
            return None, await self._record_error(kind, image, sent, error)
        finally:
            self.in_flight -= 1
        self._record_answer(kind, image, sent, answer, fingerprint)
        return answer, True

    def _record_answer(
        self, kind: str, image: int, sent: float, answer: Tokens | bytes, fingerprint: str
    ) -> None:
        if isinstance(answer, Tokens):
            fingerprint, answer = answer.fingerprint, answer.to_bytes()
        self.outcomes.append(Outcome(kind, image, sent, time.monotonic(), OK, answer, fingerprint))

    async def _record_error(self, kind: str, image: int, sent: float, error: Exception) -> bool:
        """Returns whether the client goes on."""
        self.outcomes.append(Outcome(kind, image, sent, time.monotonic(), _code(error)))
        return await self._goes_on_after(_code(error))

    async def _goes_on_after(self, code: str) -> bool:
        if self._stop_when_refused and code in NOT_ACCEPTED:
            return False
        await asyncio.sleep(PAUSE)
        return True

    async def _stream(self, role: str, client: AsyncClient) -> None:
        """An endless stream, opened again whenever it ends."""
        kind, goes_on = f"{role} stream", True
        while goes_on and not self._stop.is_set():
            sent: deque[tuple[int, float, str]] = deque()  # (image, time, fingerprint)
            ending = asyncio.Event()

            async def items(
                sent: deque[tuple[int, float, str]] = sent, ending: asyncio.Event = ending
            ) -> AsyncIterator[Any]:
                number = 0
                while not ending.is_set() and not self._stop.is_set():
                    number += 1
                    image = number % len(IMAGES)
                    tokens = self._latest.get(image) if role == "decode" else None
                    if role == "decode" and tokens is None:
                        await asyncio.sleep(PAUSE)
                        continue
                    sent.append((image, time.monotonic(), tokens.fingerprint if tokens else ""))
                    self.in_flight += 1
                    yield tokens or IMAGES[image]

            results: Any = (
                client.encode_stream(items(), in_flight=4)
                if role == "encode"
                else client.decode_stream(items(), "jpeg", in_flight=4)
            )
            try:
                async with aclosing(results):
                    async for result in results:
                        image, when, fingerprint = sent.popleft()
                        self.in_flight -= 1
                        if not isinstance(result, ChannelTokError):
                            self._record_answer(kind, image, when, result, fingerprint)
                        elif not await self._record_error(kind, image, when, result):
                            goes_on = False
                            ending.set()
            except ChannelTokError as error:
                self.in_flight -= len(sent)
                self.outcomes += [
                    Outcome(kind, image, when, time.monotonic(), _code(error))
                    for image, when, _ in sent
                ]
                goes_on = await self._goes_on_after(_code(error))


@dataclass(frozen=True)
class _Grpc:
    client: AsyncClient

    async def encode(self, image: bytes) -> Tokens:
        return await self.client.encode(image)

    async def decode(self, tokens: Tokens) -> bytes:
        return await self.client.decode(tokens, "jpeg")


@dataclass(frozen=True)
class _Rest:
    session: aiohttp.ClientSession

    async def encode(self, image: bytes) -> Tokens:
        body = await self._post("/v1/encode", image, "image/jpeg", "application/octet-stream")
        return Tokens.from_bytes(body)

    async def decode(self, tokens: Tokens) -> bytes:
        return await self._post(
            "/v1/decode", tokens.to_bytes(), "application/octet-stream", "image/jpeg"
        )

    async def _post(self, path: str, body: bytes, content_type: str, accept: str) -> bytes:
        headers = {"Content-Type": content_type, "Accept": accept}
        async with self.session.post(path, data=body, headers=headers) as reply:
            answer = await reply.read()
            if reply.status != 200:
                raise ChannelTokError(json.loads(answer)["code"], f"HTTP {reply.status}")
            return answer


def _code(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return CANNOT_CONNECT
    if isinstance(error, TimeoutError):
        return "DEADLINE_EXCEEDED"
    if not isinstance(error, ChannelTokError):
        return type(error).__name__
    never_sent = error.code == "UNAVAILABLE" and error.message.startswith(
        ("connections to all backends failing", "failed to connect")
    )
    return CANNOT_CONNECT if never_sent else error.code
