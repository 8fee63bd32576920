"""What strangers without a token can do: they take no memory, no log and no caller's place."""

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from channeltok import Client
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import http2
from tests.support.photographs import jpeg
from tests.support.running import Service, running

TOKEN = "a-token-that-strangers-do-not-have"
SECRET = "a-token-with-a-typing-mistake"
EMPTY = b"\0\0\0\0\0"  # an empty message
LIST = "/channeltok.v1.Tokenizer/ListTokenizers"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with bearer tokens."""
    tokens: Path = tmp_path_factory.mktemp("strangers") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with running(bearer_token_file=str(tokens)) as service:
        yield service
        assert service.process.poll() is None
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


@pytest.fixture(autouse=True)
def still_served(guarded: Service) -> Iterator[None]:
    """A caller with a token is answered after each test, on a new connection."""
    yield
    with Client(guarded.grpc, bearer_token=TOKEN) as client:
        assert client.encode(jpeg(), 8).k == 8


def log_size(service: Service) -> int:
    return sum(map(len, service.log))


@pytest.mark.parametrize("path", [b"/channeltok.v1.Tokenizer/\xff\xfe", b"\xff", b"/\xc3\xa9", b""])
def test_path_that_is_not_utf_8_ends_only_its_call(guarded: Service, path: bytes) -> None:
    with http2.Connection(guarded.grpc) as stranger:
        stranger.call(1, path)
        stranger.send(http2.DATA, 1, EMPTY, http2.END_STREAM)
        seen, _ = stranger.frames_until(http2.HEADERS, http2.RST_STREAM, http2.GOAWAY)
    assert seen[-1] in (http2.HEADERS, http2.RST_STREAM)


def test_metadata_that_is_not_utf_8_is_refused_and_not_logged(guarded: Service) -> None:
    before = log_size(guarded)
    sent = 0
    with http2.Connection(guarded.grpc) as stranger:
        for number in range(50):
            garbage = bytes([255, 254, number]) * 300
            metadata = [
                (b"authorization", b"Bearer " + SECRET.encode() + b"\xff"),
                (b"x-request-id", garbage),
                (b"x-\xff", garbage),
                (b"x-some-bin", garbage),
            ]
            sent += sum(len(name) + len(value) for name, value in metadata)
            stranger.call(2 * number + 1, LIST, metadata, http2.END_STREAM)
            seen, _ = stranger.frames_until(http2.HEADERS, http2.RST_STREAM, http2.GOAWAY)
            assert seen[-1] in (http2.HEADERS, http2.RST_STREAM)
    for header in (
        b"Authorization: Bearer " + SECRET.encode() + b"\xff",
        b"X-Request-Id: " + b"\xff" * 500,
        b"X-Bad: " + SECRET.encode() + b"\x01",
    ):
        with rest_connection(guarded) as stranger_too:
            stranger_too.sendall(
                b"GET /v1/tokenizers HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n"
            )
            assert stranger_too.recv(65536).split()[1] in (b"400", b"401")
    assert log_size(guarded) - before < sent / 10
    assert SECRET not in "".join(guarded.log)


def rest_connection(service: Service) -> socket.socket:
    host, port = service.rest.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_garbage_on_the_rest_port_does_not_flood_the_log(guarded: Service) -> None:
    before = log_size(guarded)
    for _ in range(300):
        with rest_connection(guarded) as stranger:
            stranger.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
            stranger.recv(65536)
    assert log_size(guarded) - before < 100 * 200


def test_watch_needs_a_token_and_check_does_not(guarded: Service) -> None:
    request = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(request, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(request, timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        watch = stub.Watch(request, timeout=10, metadata=[("authorization", f"Bearer {TOKEN}")])
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
