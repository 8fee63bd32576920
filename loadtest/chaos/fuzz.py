"""Fuzzing: malformed requests must not cause a 5xx (or gRPC INTERNAL, UNKNOWN), a hang or a crash.

schemathesis draws requests from the OpenAPI document, hypothesis draws protobuf messages and token
bytes, and images of every format are cut, spliced and flipped. Each run draws new inputs; a failure
reports its seed and the first bytes of the input.
"""

import asyncio
import io
import json
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
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service, running

METHODS = {
    "Encode": pb.EncodeRequest,
    "Decode": pb.DecodeRequest,
    "ListTokenizers": pb.ListTokenizersRequest,
}
STREAMS = {"EncodeStream": pb.EncodeStreamRequest, "DecodeStream": pb.DecodeStreamRequest}
FAULTS = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE")
HANG_SECONDS = 10.0
BATCH = 25  # inputs in flight at once


@dataclass(frozen=True)
class Input:
    """A request. target: the name of a gRPC method, or a REST path."""

    target: str
    body: bytes
    content_type: str = ""


@dataclass
class Verdicts:
    """Counts of codes, and the inputs that caused an error of the service or a hang."""

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)

    def add(self, code: str, request: str) -> None:
        """Record the answer to a request. code: gRPC or HTTP status, HUNG, or an exception."""
        self.codes[code] += 1
        if code == "HUNG":
            self.hung.append(request)
        elif code in FAULTS or code.startswith("5") or not (code.isupper() or code.isdigit()):
            self.faults.append(f"{code} for {request}")


class Sender:
    """Sends batches over open connections from a thread, while the next batch is being drawn."""

    def __init__(self, service: Service, verdicts: Verdicts) -> None:
        self._service, self._verdicts = service, verdicts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: Any = self._connections()
        self._channel, self._session = self._wait(self._open.__aenter__())
        self._in_flight: Future[None] | None = None

    def close(self) -> None:
        """Wait for all answers and close the connections."""
        self.finish()
        self._wait(self._open.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, inputs: Sequence[Input]) -> None:
        """Send a batch, once the previous one has been answered."""
        self.finish()
        self._in_flight = asyncio.run_coroutine_threadsafe(self._send_all(inputs), self._loop)

    def finish(self) -> None:
        """Wait until the current batch has been answered."""
        if self._in_flight is not None:
            self._in_flight.result()

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @asynccontextmanager
    async def _connections(self) -> Any:
        timeout = aiohttp.ClientTimeout(HANG_SECONDS)
        async with (
            grpc.aio.insecure_channel(self._service.grpc) as channel,
            aiohttp.ClientSession(self._service.rest, timeout=timeout) as session,
        ):
            yield channel, session

    async def _send_all(self, inputs: Sequence[Input]) -> None:
        await asyncio.gather(*(self._send(item) for item in inputs))

    async def _send(self, item: Input) -> None:
        try:
            code = await (self._rest(item) if item.target.startswith("/") else self._grpc(item))
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            code = "HUNG" if code == "DEADLINE_EXCEEDED" else code
        except TimeoutError:
            code = "HUNG"
        except aiohttp.ClientError as error:
            code = type(error).__name__
        size = f"{item.body[:60]!r} of {len(item.body)} bytes"
        self._verdicts.add(code, f"{item.target} {item.content_type} {size}")

    async def _grpc(self, item: Input) -> str:
        method = f"/channeltok.v1.Tokenizer/{item.target}"
        if item.target in METHODS:
            await self._channel.unary_unary(method)(item.body, timeout=HANG_SECONDS)
        else:
            call = self._channel.stream_stream(method)([item.body], timeout=HANG_SECONDS)
            async for _ in call:
                pass
        return "OK"

    async def _rest(self, item: Input) -> str:
        headers = {"Content-Type": item.content_type, "Accept": "*/*"}
        async with self._session.post(item.target, data=item.body, headers=headers) as reply:
            await reply.read()
            return str(reply.status)


def fuzz(short: bool) -> Rows:
    """At least 50,000 inputs."""
    share = 0.02 if short else 1.0
    seed_number = secrets.randbits(32)
    verdicts, sent = Verdicts(), {}
    with running() as service:
        processes = service.engines()
        with Client(service.grpc) as client:
            tokens = client.encode(IMAGES[0]).to_bytes()
        sender = Sender(service, verdicts)
        try:
            sources: list[tuple[str, int, Callable[[int], None]]] = [
                ("openapi", 400, lambda n: _openapi(service, verdicts, n, seed_number)),
                ("protobuf", 24_700, lambda n: _drawn(sender, _messages(tokens), n, seed_number)),
                (
                    "token bytes",
                    16_000,
                    lambda n: _drawn(sender, _token_bytes(tokens), n, seed_number),
                ),
                ("images", 9_000, lambda n: _images(sender, n, seed_number)),
            ]
            for name, count, source in sources:
                started, before = time.monotonic(), verdicts.codes.total()
                source(int(count * share))
                sender.finish()
                sent[name] = (verdicts.codes.total() - before, time.monotonic() - started)
        finally:
            sender.close()
        alive = service.process.poll() is None
        restarted = processes ^ service.engines() if alive else processes
        crashes = [line for line in service.log if "internal_error" in line or "Traceback" in line]
    total = verdicts.codes.total()
    note = ", ".join(
        f"{name} {count:,} in {seconds:.0f} s" for name, (count, seconds) in sent.items()
    )
    yield Row("fuzz_inputs", "inputs", total, 1000 if short else 50_000, at_least=True, note=note)
    label, note = "answers of 5xx, INTERNAL or UNKNOWN", _example(verdicts.faults, seed_number)
    yield Row("fuzz_5xx", label, len(verdicts.faults), 0, note=note)
    label = f"inputs without an answer in {HANG_SECONDS:.0f} s"
    note = _example(verdicts.hung, seed_number)
    yield Row("fuzz_hung", label, len(verdicts.hung), 0, note=note)
    label = "processes that ended or started, exceptions in the log"
    note = crashes[0].strip()[:200] if crashes else ""
    yield Row("fuzz_crashes", label, len(restarted) + len(crashes), 0, note=note)


def _example(requests: list[str], seed_number: int) -> str:
    return f"seed {seed_number}: {requests[0][:140]}" if requests else ""


def _quiet(count: int) -> settings:
    """Settings that only generate: no database, no shrinking, no health checks."""
    return settings(
        max_examples=max(1, count),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


@schemathesis.serializer("application/x-ndjson")
def _as_line(context: object, value: object) -> bytes:
    return json.dumps(value).encode()


def _openapi(service: Service, verdicts: Verdicts, count: int, seed_number: int) -> None:
    schema = schemathesis.openapi.from_url(f"{service.rest}/openapi.json")
    operations = [item.ok() for item in schema.get_all_operations() if isinstance(item, Ok)]
    posts = [operation for operation in operations if operation.method == "post"]
    gets = [operation for operation in operations if operation.method != "post"]
    valid, invalid = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    modes = [(post, mode) for post in posts for mode in (valid, invalid)]
    for operation, mode in modes + [(get, valid) for get in gets]:

        @seed(seed_number)
        @_quiet(count // len(modes))
        @given(case=operation.as_strategy(generation_mode=mode), keep_accept=st.booleans())
        def call(case: schemathesis.Case[Any], keep_accept: bool) -> None:
            # Most drawn Accept headers end in 406 before anything else happens.
            if not keep_accept and case.headers is not None:
                case.headers.pop("accept", None)
            reply = case.call(timeout=HANG_SECONDS)
            verdicts.add(str(reply.status_code), f"{case.method} {case.path} {case.body!r:.60}")

        call()


def _drawn(sender: Sender, inputs: st.SearchStrategy[Input], count: int, seed_number: int) -> None:
    @seed(seed_number)
    @_quiet(-(-count // BATCH))
    @given(st.lists(inputs, min_size=BATCH, max_size=BATCH))
    def call(batch: list[Input]) -> None:
        sender.send(batch)

    call()


def _messages(tokens: bytes) -> st.SearchStrategy[Input]:
    """Messages of the .proto with arbitrary field values, and bytes that are not a message."""
    payload = st.one_of(st.binary(max_size=64), st.just(tokens), st.just(IMAGES[0][:2000]))
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
    noise = st.builds(Input, st.sampled_from(list(by_method)), st.binary(max_size=64))
    return st.one_of(*whole, noise)


def _input(method: str, message: Message) -> Input:
    return Input(method, message.SerializeToString())


def _token_bytes(tokens: bytes) -> st.SearchStrategy[Input]:
    """Random bytes, random headers with ids, and valid token bytes with a part replaced."""
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
        lambda data: _input("Decode", pb.DecodeRequest(tokens=data, format=pb.IMAGE_FORMAT_JPEG)),
        body,
    )
    return st.one_of(over_grpc, over_grpc, over_rest)


def _images(sender: Sender, count: int, seed_number: int) -> None:
    """Mutated images, small so that those that are still valid cost little."""
    rng = random.Random(seed_number)
    image = Image.open(io.BytesIO(IMAGES[0])).resize((48, 40))
    formats = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "RGBA", "P", "LA"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P",),
    }
    originals = []
    for format, modes in formats.items():
        for mode in modes:
            buffer = io.BytesIO()
            image.convert(mode).save(buffer, format)
            originals.append(buffer.getvalue())

    def flip(data: bytearray) -> None:
        data[rng.randrange(len(data))] = rng.randrange(256)

    def flip_in_header(data: bytearray) -> None:
        data[rng.randrange(min(len(data), 60))] = rng.choice([0, 1, 127, 128, 255])

    def truncate(data: bytearray) -> None:
        del data[rng.randrange(len(data)) :]

    def delete(data: bytearray) -> None:
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 40)]

    def insert(data: bytearray) -> None:
        start = rng.randrange(len(data))
        data[start:start] = rng.randbytes(rng.randrange(1, 40))

    def append_image(data: bytearray) -> None:
        data.extend(rng.choice(originals))

    mutations = (flip, flip_in_header, truncate, delete, insert, append_image)
    for start in range(0, count, BATCH):
        batch = []
        for number in range(start, min(start + BATCH, count)):
            data = bytearray(rng.choice(originals))
            for _ in range(rng.choice([1, 1, 2, 5])):
                if data:
                    rng.choice(mutations)(data)
            body = bytes(data)
            over_rest = Input("/v1/encode", body, "image/jpeg")
            over_grpc = _input("Encode", pb.EncodeRequest(image=body, k=1))
            batch.append(over_grpc if number % 3 else over_rest)
        sender.send(batch)
