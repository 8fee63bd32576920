"""Callers who keep a service busy while it is attacked, and remember every answer.

The loop is closed: each calls again when it was answered. Tokens that came back are decoded next, so that both engines are at work.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from channeltok import AsyncClient, ChannelTokError, Client, Tokens

from loadtest.harness.service_process import ROOT, Service, eventually

PHOTOS = tuple(path.read_bytes() for path in sorted((ROOT / "docs/images").glob("*.jpg")))
CANNOT_CONNECT = "CANNOT_CONNECT"  # the port is closed: no call was made
NOT_ACCEPTED = ("STOPPING", CANNOT_CONNECT)
OK = "OK"
PAUSE = 0.05  # after an error: a service that refuses at once is not hammered


@dataclass(frozen=True)
class Outcome:
    """How one call, or one item of a stream, ended. sent, finished: time.monotonic(). code: OK or an error's.

    answer: token bytes or a JPEG. fingerprint: of the tokens in it, or under it.
    """

    kind: str
    photo: int
    sent: float
    finished: float
    code: str
    answer: bytes = b""
    fingerprint: str = ""


Known = dict[
    tuple[str, str, int], bytes
]  # (fingerprint, "encode" or "decode", photo) -> the right answer


def known_answers(service: Service) -> Known:
    """What an undisturbed service answers."""
    known: Known = {}
    with Client(service.grpc) as client:
        for photo, image in enumerate(PHOTOS):
            tokens = client.encode(image)
            known[tokens.fingerprint, "encode", photo] = tokens.to_bytes()
            known[tokens.fingerprint, "decode", photo] = client.decode(tokens, "jpeg")
    return known


def wrong(outcomes: Iterable[Outcome], known: Known) -> int:
    """Answers that are not those of an undisturbed service."""
    return sum(
        outcome.answer != known.get((outcome.fingerprint, outcome.kind.split()[0], outcome.photo))
        for outcome in outcomes
        if outcome.code == OK
    )


class Callers:
    """`pairs` callers on each protocol who encode and then decode, and an endless stream each way. Runs from `with` to its end.

    timeout: seconds after which a call counts as hung (its code is then DEADLINE_EXCEEDED). go_home: a caller who is told that the
    service stops, or finds the port closed, leaves.
    """

    def __init__(
        self, service: Service, *, pairs: int = 2, timeout: float = 15.0, go_home: bool = False
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.in_flight = 0
        self._service, self._pairs, self._timeout, self._go_home = service, pairs, timeout, go_home
        self._stop = threading.Event()
        self._latest: dict[int, Tokens] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Self:
        started = time.monotonic()
        self._thread.start()
        eventually(lambda: self.all_worked_after(started), 60, "an answer to every kind of call")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self._timeout + 20)

    @property
    def kinds(self) -> tuple[str, ...]:
        """`encode` or `decode` first."""
        return tuple(
            f"{what} {how}" for what in ("encode", "decode") for how in ("grpc", "rest", "stream")
        )

    def all_worked_after(self, since: float) -> bool:
        """Whether every kind of call that was sent after `since` (time.monotonic()) has been answered with a result."""
        worked = {
            outcome.kind
            for outcome in reversed(self.outcomes[:])
            if outcome.code == OK and outcome.sent > since
        }
        return len(worked) == len(self.kinds)

    def at_home(self, seconds: float) -> bool:
        """Wait until all callers have left."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def _all(self) -> None:
        async with (
            AsyncClient(self._service.grpc, self._timeout) as client,
            aiohttp.ClientSession(
                self._service.rest, timeout=aiohttp.ClientTimeout(self._timeout)
            ) as session,
        ):
            # gRPC lets a process's channels to one address share a connection; each caller's answers are its own.
            grpc = [self._pair(number, "grpc", _Grpc(client)) for number in range(self._pairs)]
            rest = [self._pair(number, "rest", _Rest(session)) for number in range(self._pairs)]
            await asyncio.gather(
                *grpc, *rest, self._stream("encode", client), self._stream("decode", client)
            )

    async def _pair(self, number: int, how: str, caller: "_Grpc | _Rest") -> None:
        while not self._stop.is_set():
            number += 1
            photo = number % len(PHOTOS)
            tokens, goes_on = await self._call(f"encode {how}", photo, caller.encode(PHOTOS[photo]))
            if tokens is not None and goes_on:
                self._latest[photo] = tokens
                _, goes_on = await self._call(
                    f"decode {how}", photo, caller.decode(tokens), tokens.fingerprint
                )
            if not goes_on:
                return

    async def _call(
        self, kind: str, photo: int, call: Coroutine[Any, Any, Any], fingerprint: str = ""
    ) -> tuple[Any, bool]:
        """(answer or None, whether the caller stays)"""
        sent = time.monotonic()
        self.in_flight += 1
        try:
            answer = await call
        except (ChannelTokError, aiohttp.ClientError, TimeoutError) as error:
            return None, await self._failed(
                Outcome(kind, photo, sent, time.monotonic(), _code(error))
            )
        finally:
            self.in_flight -= 1
        self._answered(kind, photo, sent, answer, fingerprint)
        return answer, True

    def _answered(
        self, kind: str, photo: int, sent: float, answer: Tokens | bytes, fingerprint: str
    ) -> None:
        if isinstance(answer, Tokens):
            fingerprint, answer = answer.fingerprint, answer.to_bytes()
        self.outcomes.append(Outcome(kind, photo, sent, time.monotonic(), OK, answer, fingerprint))

    async def _failed(self, outcome: Outcome) -> bool:
        self.outcomes.append(outcome)
        return await self._stays_after(outcome.code)

    async def _stays_after(self, code: str) -> bool:
        if self._go_home and code in NOT_ACCEPTED:
            return False
        await asyncio.sleep(PAUSE)
        return True

    async def _stream(self, what: str, client: AsyncClient) -> None:
        """An endless stream; a new one when it ends."""
        kind, stays = f"{what} stream", True
        while stays and not self._stop.is_set():
            sent: deque[tuple[int, float, str]] = deque()

            ending = asyncio.Event()

            async def items(
                sent: deque[tuple[int, float, str]] = sent, ending: asyncio.Event = ending
            ) -> AsyncIterator[Any]:
                number = 0
                while not ending.is_set() and not self._stop.is_set():
                    number += 1
                    photo = number % len(PHOTOS)
                    if what == "decode" and photo not in self._latest:
                        await asyncio.sleep(PAUSE)
                        continue
                    tokens = self._latest.get(photo)
                    sent.append(
                        (
                            photo,
                            time.monotonic(),
                            tokens.fingerprint if what == "decode" and tokens else "",
                        )
                    )
                    self.in_flight += 1
                    yield PHOTOS[photo] if what == "encode" else tokens

            results: Any = client.encode_stream(items(), in_flight=4) if what == "encode" else None
            results = results or client.decode_stream(items(), "jpeg", in_flight=4)
            try:
                async with aclosing(results):
                    async for result in results:
                        photo, when, fingerprint = sent.popleft()
                        self.in_flight -= 1
                        if isinstance(result, ChannelTokError):
                            if not await self._failed(
                                Outcome(kind, photo, when, time.monotonic(), _code(result))
                            ):
                                stays = False
                                ending.set()
                        else:
                            self._answered(kind, photo, when, result, fingerprint)
            except ChannelTokError as error:
                self.in_flight -= len(sent)
                self.outcomes += [
                    Outcome(kind, photo, when, time.monotonic(), _code(error))
                    for photo, when, _ in sent
                ]
                stays = await self._stays_after(_code(error))


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
        return Tokens.from_bytes(
            await self._post("/v1/encode", image, "image/jpeg", "application/octet-stream")
        )

    async def decode(self, tokens: Tokens) -> bytes:
        return await self._post(
            "/v1/decode", tokens.to_bytes(), "application/octet-stream", "image/jpeg"
        )

    async def _post(self, path: str, body: bytes, content_type: str, accept: str) -> bytes:
        async with self.session.post(
            path, data=body, headers={"Content-Type": content_type, "Accept": accept}
        ) as reply:
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
