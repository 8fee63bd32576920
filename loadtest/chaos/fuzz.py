"""Inputs that nobody would send: nothing may answer with a 5xx (or gRPC's INTERNAL, UNKNOWN), hang or crash.

schemathesis draws requests from the OpenAPI document, hypothesis draws protobuf messages and token bytes, and images of every format are
cut, spliced and flipped. Each run draws anew; a failure names its seed and the input's first bytes.
"""

import asyncio
import io
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import schemathesis
from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.core.result import Ok

from loadtest.chaos.attack import Row, Rows
from loadtest.chaos.callers import PHOTOS
from loadtest.harness.service_process import Service, running

METHODS = {
    "Encode": pb.EncodeRequest,
    "Decode": pb.DecodeRequest,
    "ListTokenizers": pb.ListTokenizersRequest,
}
STREAMS = {"EncodeStream": pb.EncodeStreamRequest, "DecodeStream": pb.DecodeStreamRequest}
FAULTS = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE")
HANG_SECONDS = 10.0
TOGETHER = 25  # inputs in the air at once


@dataclass(frozen=True)
class Input:
    """where: a gRPC method's name, or a REST path."""

    where: str
    body: bytes
    content_type: str = ""


@dataclass
class Verdicts:
    """faults: answers that must not be."""

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)

    def add(self, code: str, what: str) -> None:
        """One answer."""
        self.codes[code] += 1
        if code == "HUNG":
            self.hung.append(what)
        elif code in FAULTS or code.startswith("5") or not (code.isupper() or code.isdigit()):
            self.faults.append(f"{code} to {what}")


class Sender:
    """Connections that stay open, on a loop in a thread: a batch is in the air while the next one is drawn."""

    def __init__(self, service: Service, verdicts: Verdicts) -> None:
        self._service, self._verdicts = service, verdicts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: Any = self._connections()
        self._channel, self._session = self._wait(self._open.__aenter__())
        self._in_the_air: Future[None] | None = None

    def close(self) -> None:
        """Hang up."""
        self.finish()
        self._wait(self._open.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, inputs: Sequence[Input]) -> None:
        """All of them at once, when those before are answered."""
        self.finish()
        self._in_the_air = asyncio.run_coroutine_threadsafe(self._all(inputs), self._loop)

    def finish(self) -> None:
        """Wait until all are answered."""
        if self._in_the_air is not None:
            self._in_the_air.result()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @asynccontextmanager
    async def _connections(self) -> Any:
        timeout = aiohttp.ClientTimeout(HANG_SECONDS)
        async with (
            grpc.aio.insecure_channel(self._service.grpc) as channel,
            aiohttp.ClientSession(self._service.rest, timeout=timeout) as session,
        ):
            yield channel, session

    async def _all(self, inputs: Sequence[Input]) -> None:
        await asyncio.gather(*(self._one(one) for one in inputs))

    async def _one(self, one: Input) -> None:
        try:
            code = await (self._rest(one) if one.where.startswith("/") else self._grpc(one))
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            code = "HUNG" if code == "DEADLINE_EXCEEDED" else code
        except TimeoutError:
            code = "HUNG"
        except aiohttp.ClientError as error:
            code = type(error).__name__
        self._verdicts.add(
            code, f"{one.where} {one.content_type} {one.body[:60]!r} of {len(one.body)} bytes"
        )

    async def _grpc(self, one: Input) -> str:
        method = f"/channeltok.v1.Tokenizer/{one.where}"
        if one.where in METHODS:
            await self._channel.unary_unary(method)(one.body, timeout=HANG_SECONDS)
        else:
            call = self._channel.stream_stream(method)([one.body], timeout=HANG_SECONDS)
            async for _ in call:
                pass
        return "OK"

    async def _rest(self, one: Input) -> str:
        headers = {"Content-Type": one.content_type, "Accept": "*/*"}
        async with self._session.post(one.where, data=one.body, headers=headers) as reply:
            await reply.read()
            return str(reply.status)


def fuzz(short: bool) -> Rows:
    """At least 50,000 inputs."""
    share = 0.02 if short else 1.0
    number = secrets.randbits(32)
    verdicts, sent = Verdicts(), {}
    with running() as service:
        processes = {child.pid for child in service.children()}
        with Client(service.grpc) as client:
            tokens = client.encode(PHOTOS[0]).to_bytes()
        sender = Sender(service, verdicts)
        try:
            sources: list[tuple[str, int, Callable[[int], None]]] = [
                ("openapi", 400, lambda count: _openapi(service, verdicts, count, number)),
                (
                    "protobuf",
                    24_700,
                    lambda count: _drawn(sender, _messages(tokens), count, number),
                ),
                (
                    "token bytes",
                    16_000,
                    lambda count: _drawn(sender, _token_bytes(tokens), count, number),
                ),
                ("images", 9_000, lambda count: _images(sender, count, number)),
            ]
            for name, count, source in sources:
                started, before = time.monotonic(), verdicts.codes.total()
                source(int(count * share))
                sender.finish()
                sent[name] = (verdicts.codes.total() - before, time.monotonic() - started)
        finally:
            sender.close()
        alive = service.process.poll() is None
        restarted = processes ^ {child.pid for child in service.children()} if alive else processes
        crashes = [line for line in service.log if "internal_error" in line or "Traceback" in line]
    total = verdicts.codes.total()
    note = ", ".join(
        f"{name} {count:,} in {seconds:.0f} s" for name, (count, seconds) in sent.items()
    )
    yield Row("fuzz_inputs", "inputs", total, 1000 if short else 50_000, at_least=True, note=note)
    yield Row(
        "fuzz_5xx",
        "answers of 5xx, INTERNAL or UNKNOWN",
        len(verdicts.faults),
        0,
        note=_example(verdicts.faults, number),
    )
    yield Row(
        "fuzz_hung",
        f"inputs without an answer in {HANG_SECONDS:.0f} s",
        len(verdicts.hung),
        0,
        note=_example(verdicts.hung, number),
    )
    said = crashes[0].strip()[:200] if crashes else ""
    yield Row(
        "fuzz_crashes",
        "processes that ended or began, exceptions in the log",
        len(restarted) + len(crashes),
        0,
        note=said,
    )


def _example(what: list[str], number: int) -> str:
    return f"seed {number}: {what[0][:140]}" if what else ""


def _quiet(count: int) -> settings:
    """hypothesis as a generator: no database, no shrinking, no opinion on speed."""
    return settings(
        max_examples=max(1, count),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


def _openapi(service: Service, verdicts: Verdicts, count: int, number: int) -> None:
    schema = schemathesis.openapi.from_url(f"{service.rest}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    posts = [operation for operation in operations if operation.method == "post"]
    modes = [
        (post, mode)
        for post in posts
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    ]
    gets = [
        (operation, schemathesis.GenerationMode.POSITIVE)
        for operation in operations
        if operation.method != "post"
    ]
    for operation, mode in modes + gets:

        @seed(number)
        @_quiet(count // len(modes))
        @given(case=operation.as_strategy(generation_mode=mode), as_drawn=st.booleans())
        def call(case: schemathesis.Case[Any], as_drawn: bool) -> None:
            if not as_drawn and case.headers is not None:
                case.headers.pop(
                    "accept", None
                )  # most that are drawn end in 406, before anything happens
            reply = case.call(timeout=HANG_SECONDS)
            verdicts.add(str(reply.status_code), f"{case.method} {case.path} {case.body!r:.60}")

        call()


def _drawn(sender: Sender, inputs: st.SearchStrategy[Input], count: int, number: int) -> None:
    @seed(number)
    @_quiet(-(-count // TOGETHER))
    @given(st.lists(inputs, min_size=TOGETHER, max_size=TOGETHER))
    def call(batch: list[Input]) -> None:
        sender.send(batch)

    call()


def _messages(tokens: bytes) -> st.SearchStrategy[Input]:
    """Messages of the contract with any values in their fields, and bytes that are no message."""
    payload = st.one_of(st.binary(max_size=64), st.just(tokens), st.just(PHOTOS[0][:2000]))
    name = st.one_of(st.just(""), st.just("demo"), st.text(max_size=20))
    encode = st.builds(
        pb.EncodeRequest,
        image=payload,
        k=st.one_of(st.none(), st.integers(0, 2**32 - 1)),
        tokenizer=name,
    )
    decode = st.builds(
        pb.DecodeRequest, tokens=payload, format=st.integers(-(2**31), 2**31 - 1), tokenizer=name
    )
    number = st.integers(0, 2**64 - 1)
    by_method: dict[str, st.SearchStrategy[Message]] = {
        "Encode": encode,
        "Decode": decode,
        "ListTokenizers": st.builds(pb.ListTokenizersRequest),
        "EncodeStream": st.builds(
            pb.EncodeStreamRequest, id=number, request=st.one_of(st.none(), encode)
        ),
        "DecodeStream": st.builds(
            pb.DecodeStreamRequest, id=number, request=st.one_of(st.none(), decode)
        ),
    }
    whole = [st.builds(_input, st.just(method), message) for method, message in by_method.items()]
    rubbish = st.builds(Input, st.sampled_from(list(by_method)), st.binary(max_size=64))
    return st.one_of(*whole, rubbish)


def _input(method: str, message: Message) -> Input:
    return Input(method, message.SerializeToString())


def _token_bytes(tokens: bytes) -> st.SearchStrategy[Input]:
    """Any bytes, any header before any ids, and good token bytes with a part of their header replaced."""
    header = st.builds(
        lambda magic, version, reserved, k, fingerprint, ids: (
            magic + bytes([version, reserved]) + k.to_bytes(2, "little") + fingerprint + ids
        ),
        *(
            st.sampled_from([b"CTOK", b"ctok", b"\0\0\0\0"]),
            st.integers(0, 255),
            st.sampled_from([0, 1, 255]),
        ),
        *(
            st.integers(0, 65_535),
            st.one_of(st.just(tokens[8:16]), st.binary(min_size=8, max_size=8)),
            st.binary(max_size=64),
        ),
    )
    spliced = st.builds(
        lambda at, part: tokens[:at] + part + tokens[at + len(part) :],
        st.integers(0, 18),
        st.binary(min_size=1, max_size=8),
    )
    body = st.one_of(st.binary(max_size=80), header, spliced)
    over_rest = st.builds(
        Input,
        st.just("/v1/decode"),
        body,
        st.sampled_from(["application/octet-stream", "application/json"]),
    )
    over_grpc = st.builds(
        lambda one: _input("Decode", pb.DecodeRequest(tokens=one, format=pb.IMAGE_FORMAT_JPEG)),
        body,
    )
    return st.one_of(over_grpc, over_grpc, over_rest)


def _images(sender: Sender, count: int, number: int) -> None:
    """Small ones, so that those that are still images cost little."""
    chance = random.Random(number)
    photo = Image.open(io.BytesIO(PHOTOS[0])).resize((48, 40))
    originals = []
    for format, modes in {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "RGBA", "P", "LA"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P",),
    }.items():
        for mode in modes:
            buffer = io.BytesIO()
            photo.convert(mode).save(buffer, format)
            originals.append(buffer.getvalue())
    mutations: list[Callable[[bytearray], object]] = [
        lambda data: data.__setitem__(chance.randrange(len(data)), chance.randrange(256)),
        lambda data: data.__setitem__(
            chance.randrange(min(len(data), 60)), chance.choice([0, 1, 127, 128, 255])
        ),  # headers
        lambda data: data.__delitem__(slice(chance.randrange(len(data)), None)),
        lambda data: data.__delitem__(
            slice(at := chance.randrange(len(data)), at + chance.randrange(1, 40))
        ),
        lambda data: data.__setitem__(
            slice(at := chance.randrange(len(data)), at), chance.randbytes(chance.randrange(1, 40))
        ),
        lambda data: data.extend(chance.choice(originals)),
    ]
    for start in range(0, count, TOGETHER):
        batch = []
        for one in range(start, min(start + TOGETHER, count)):
            data = bytearray(chance.choice(originals))
            for _ in range(chance.choice([1, 1, 2, 5])):
                if data:
                    chance.choice(mutations)(data)
            body = bytes(data)
            request = (
                Input("/v1/encode", body, "image/jpeg")
                if one % 3 == 0
                else _input("Encode", pb.EncodeRequest(image=body, k=1))
            )
            batch.append(request)
        sender.send(batch)
