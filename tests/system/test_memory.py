"""Under attacks on its memory the service stays within max_memory, and serves an honest caller."""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from channeltok import Client, Overloaded
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

from service import machine
from tests.support import http2
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, refused_start, running

MIB = 2**20
MAX_MEMORY = 1100 * MIB
# The smaller engine, and the same on every processor: what it leaves for requests is soon taken.
TIGHT = {"engine": "onnxruntime", "max_memory": "1100MiB"}
# A JPEG's first bytes and 16 MiB that are none: read, copied and refused.
LARGE = b"\xff\xd8\xff" + bytes(16 * MIB - 3)
CODES = {"BAD_IMAGE", "OVERLOADED", "TOO_SLOW", "TOO_LARGE"}
JSON = {"Content-Type": "application/json"}
HEADERS = {"Authorization": "Bearer attacker-0123456789abcdef"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    Path(tokens).write_text("attacker-0123456789abcdef\nhonest-0123456789abcdef\n")
    with running(**TIGHT, receive_seconds="5", bearer_token_file=str(tokens)) as started:
        yield started
        assert started.process.poll() is None
        assert not [line for line in started.log if "internal_error" in line or "Traceback" in line]


@contextlib.contextmanager
def honest_caller_is_served(service: Service) -> Iterator[None]:
    """Meanwhile memory stays within its limit, and one call after another is answered in the end.

    A call may be refused with a retry time, and is repeated then.
    """
    stop, peak, answers = threading.Event(), [0], [0]

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], machine.memory_in_use(service.process.pid))

    def call() -> None:
        with Client(
            service.grpc, 60, bearer_token="honest-0123456789abcdef", retries=False
        ) as client:
            while not stop.is_set() or not answers[0]:
                try:
                    client.encode(jpeg(), 8)
                    answers[0] += 1
                except Overloaded as error:
                    stop.wait(error.retry_after)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(watch), pool.submit(call)]
        try:
            yield
        finally:
            stop.set()
        for each in running:
            each.result()
    assert answers[0] > 0
    assert peak[0] < 1.1 * MAX_MEMORY
    eventually(lambda: reserved(service) == 0, 20, "all memory given back")


def reserved(service: Service) -> float:
    headers = {"Authorization": "Bearer honest-0123456789abcdef"}
    page = httpx.get(f"{service.rest}/metrics", headers=headers, timeout=30).text
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith(("channeltok_memory_reserved_bytes{", "channeltok_memory_waiting{"))
    )


def at_once(count: int, work: Callable[[], str]) -> Counter[str]:
    with ThreadPoolExecutor(count) as pool:
        return Counter(done.result() for done in [pool.submit(work) for _ in range(count)])


def test_large_bodies_over_rest(service: Service) -> None:
    def post() -> str:
        try:
            reply = httpx.post(
                f"{service.rest}/v1/encode", content=LARGE, headers=HEADERS, timeout=60
            )
        except httpx.HTTPError:
            return "TOO_SLOW"  # hung up on while it sent
        return str(reply.json()["code"])

    with honest_caller_is_served(service):
        assert set(at_once(40, post)) <= CODES


def test_large_messages_over_grpc(service: Service) -> None:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    request = pb.EncodeRequest(image=LARGE)

    def call() -> str:
        with grpc.insecure_channel(service.grpc, options) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                TokenizerStub(channel).Encode(
                    request, metadata=[("authorization", HEADERS["Authorization"])], timeout=60
                )
            return str(caught.value.code().name)

    with honest_caller_is_served(service):
        codes = at_once(40, call)
    assert set(codes) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert codes["INVALID_ARGUMENT"]  # some are read


def test_streams_of_large_items(service: Service) -> None:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    item = pb.EncodeStreamRequest(request=pb.EncodeRequest(image=LARGE))

    def stream() -> str:
        with grpc.insecure_channel(service.grpc, options) as channel:
            replies = TokenizerStub(channel).EncodeStream(
                iter([item] * 5),
                metadata=[("authorization", HEADERS["Authorization"])],
                timeout=120,
            )
            try:
                return f"{len(list(replies))} replies"
            except grpc.RpcError as error:
                return str(error.code().name)

    with honest_caller_is_served(service):
        outcomes = at_once(12, stream)
    assert set(outcomes) <= {"5 replies", "RESOURCE_EXHAUSTED"}
    assert outcomes["5 replies"]  # streams wait for their memory


def test_half_sent_bodies(service: Service) -> None:
    host, port = service.rest.removeprefix("http://").split(":")
    head = (
        "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {HEADERS['Authorization']}\r\n"
        "Content-Type: image/jpeg\r\nContent-Length: 16000000\r\n\r\n"
    )

    def send_half() -> str:
        with (
            socket.create_connection((host, int(port)), timeout=30) as connection,
            contextlib.suppress(OSError),
        ):
            connection.sendall(head.encode() + bytes(8_000_000))
            return connection.recv(12).decode()
        return "hung up"

    with honest_caller_is_served(service):
        assert set(at_once(80, send_half)) <= {"HTTP/1.1 408", "HTTP/1.1 429", "hung up", ""}


def silent(connection: http2.Connection, count: int) -> None:
    for number in range(count):
        connection.call(2 * number + 1, "/channeltok.v1.Tokenizer/Encode")


def half_sent(connection: http2.Connection, count: int) -> None:
    for number in range(count):
        connection.call(2 * number + 1, "/channeltok.v1.Tokenizer/Encode")
        begin = b"\0" + struct.pack(">I", 16 * MIB) + bytes(10_000)
        connection.send(http2.DATA, 2 * number + 1, begin)


@pytest.mark.parametrize("attack", [silent, half_sent])
def test_grpc_calls_without_a_message_keep_nobody_out(
    attack: Callable[[http2.Connection, int], None],
) -> None:
    """Without tokens, from another address than the honest caller: each has turns of its own."""
    with running(**TIGHT, receive_seconds="20") as service:
        with (
            http2.Connection(service.grpc, source="127.0.0.2") as one,
            http2.Connection(service.grpc, source="127.0.0.2") as other,
            Client(service.grpc, timeout=60) as client,
        ):
            expected = client.encode(jpeg(), 8)
            for connection in (one, other):
                with contextlib.suppress(ConnectionError):
                    attack(connection, 5 if attack is half_sent else 60)
            for _ in range(5):
                assert client.encode(jpeg(), 8) == expected  # after a second, not after twenty
            assert sample(service, "channeltok_memory_reserved_bytes") > 0
        eventually(
            lambda: sample(service, "channeltok_memory_reserved_bytes") == 0, 30, "no reservation"
        )


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/decode"])
def test_json_bombs(service: Service, path: str) -> None:
    items = {
        "objects": b'{"tokens":[' + b",".join([b"{}"] * 20_000) + b"]}",
        "keys": b"{" + b",".join(b'"%x":1' % number for number in range(6_000)) + b"}",
        "previews": b'{"previews":[' + b",".join([b"{}"] * 20_000) + b"]}",
        "k": b'{"fingerprint":"a","tokens":[1],"k":[' + b",".join([b"[]"] * 20_000) + b"]}",
        "depth": b"[" * 65_000,
        "number": b'{"seed":' + b"9" * 65_000 + b"}",
        "text": b'{"class":"' + b"a" * 65_000 + b'","fingerprint":"' + b"b" * 500 + b'"}',
        "too large": b'{"previews":[' + b",".join([b"{}"] * 5_000_000) + b"]}",
    }
    with honest_caller_is_served(service):
        for name, body in items.items():
            started = time.monotonic()
            reply = httpx.post(
                f"{service.rest}{path}", content=body, headers={**HEADERS, **JSON}, timeout=60
            )
            assert 400 <= reply.status_code < 500, name
            assert len(reply.content) < 2000, name
            assert time.monotonic() - started < 5, name


def test_service_says_how_much_memory_it_needs() -> None:
    output = refused_start(CHANNELTOK_MAX_MEMORY="100MiB")
    assert "max_memory is 100 MiB, too little" in output
    assert "Set CHANNELTOK_MAX_MEMORY to" in output
