"""Limits on connections, headers, time, memory and images per second; health stays available."""

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import grpc
import httpx
import psutil
import pytest
from channeltok import ChannelTokError, Client, Overloaded, Tokens, TooLarge
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import http2
from tests.support.metrics import sample
from tests.support.photographs import crops, jpeg
from tests.support.running import Service, eventually, running

RECEIVE_SECONDS = 1.5
SLACK = 4.0  # of a machine that others use too
CONNECTIONS = 20
HEADER_BYTES = 8192
METHOD = "/channeltok.v1.Tokenizer/Encode"


@pytest.fixture(scope="module")
def tight() -> Iterator[Service]:
    """A service with small limits."""
    limits = {
        "receive_seconds": RECEIVE_SECONDS,
        "max_connections": CONNECTIONS,
        "max_header_bytes": HEADER_BYTES,
        "idle_seconds": 2.5,
    }
    with running(**{name: str(value) for name, value in limits.items()}) as service:
        yield service
        assert service.process.poll() is None
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


@pytest.fixture(autouse=True)
def healthy_throughout(tight: Service) -> Iterator[None]:
    """Health probes as an orchestrator sends them, each on a new connection, during each test."""
    stop, failures, answers = threading.Event(), [], []

    def probe() -> None:
        with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=5) as prober:
            while not answers or not stop.wait(0.05):
                try:
                    answers.append(prober.get(f"{tight.rest}/livez").raise_for_status().text)
                except httpx.HTTPError as error:
                    failures.append(repr(error))
                    return

    with grpc.insecure_channel(tight.grpc) as channel:  # opened before the attack, as a client's is
        health = health_pb2_grpc.HealthStub(channel)
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
            == health_pb2.HealthCheckResponse.SERVING
        )
        prober = threading.Thread(target=probe)
        prober.start()
        yield
        stop.set()
        prober.join(10)
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
            == health_pb2.HealthCheckResponse.SERVING
        )
    assert not failures


def connect(service: Service) -> socket.socket:
    host, port = service.rest.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def rest_of(connection: socket.socket) -> tuple[bytes, float]:
    """All that still comes, and the seconds until the service hangs up."""
    started, received = time.monotonic(), b""
    try:
        while more := connection.recv(65536):
            received += more
    except ConnectionResetError:
        pass
    return received, time.monotonic() - started


def trickle(connection: socket.socket, pieces: Iterable[bytes]) -> None:
    """Ten a second, until the service hangs up."""
    with suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.1)


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/encode HT", b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nX-Slow: "],
    ids=["silent", "line", "headers"],
)
def test_missing_headers_end_the_connection(tight: Service, sent: bytes) -> None:
    with connect(tight) as slow:
        slow.sendall(sent)
        received, seconds = rest_of(slow)
    assert received == b""
    assert RECEIVE_SECONDS - 0.5 < seconds < RECEIVE_SECONDS + SLACK


def test_headers_byte_by_byte_gain_no_time(tight: Service) -> None:
    with connect(tight) as slow:
        started = time.monotonic()
        trickle(slow, (bytes([byte]) for byte in b"GET /livez HTTP/1.1\r\nX-Slow: " + b"a" * 1000))
        assert RECEIVE_SECONDS - 0.5 < time.monotonic() - started < RECEIVE_SECONDS + SLACK


def test_second_request_of_a_connection_has_the_same_limit(tight: Service) -> None:
    with connect(tight) as slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in slow.recv(65536)
        time.sleep(1)
        slow.sendall(b"GET /livez")
        _, seconds = rest_of(slow)
    assert RECEIVE_SECONDS - 0.5 < seconds < RECEIVE_SECONDS + SLACK


def test_missing_body_is_answered_with_408(tight: Service) -> None:
    with connect(tight) as slow:
        slow.sendall(
            b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
        )
        received, seconds = rest_of(slow)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"TOO_SLOW" in received
    assert seconds < 2 * RECEIVE_SECONDS + SLACK  # and who goes on sending is cut off


def test_endless_body_after_an_error_is_cut_off(tight: Service) -> None:
    with connect(tight) as endless:
        endless.sendall(
            b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: text/html\r\n\r\n"
        )
        started = time.monotonic()
        trickle(endless, itertools.repeat(b"1000\r\n" + bytes(4096) + b"\r\n", 1000))
        assert time.monotonic() - started < RECEIVE_SECONDS + SLACK


def test_missing_grpc_message_is_answered(tight: Service) -> None:
    with http2.Connection(tight.grpc) as slow:
        slow.call(1, METHOD)
        slow.send(http2.DATA, 1, b"\0" + struct.pack(">I", 1000) + b"abc")
        seen, seconds = slow.frames_until(http2.RST_STREAM, http2.GOAWAY)
    assert http2.HEADERS in seen
    assert RECEIVE_SECONDS - 0.5 < seconds < RECEIVE_SECONDS + SLACK


def test_idle_connections_are_closed(tight: Service) -> None:
    with connect(tight) as idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert rest_of(idle)[1] < 2.5 + SLACK
    with http2.Connection(tight.grpc) as idle_too:
        assert idle_too.frames_until(http2.GOAWAY)[1] < 2.5 + SLACK


def test_ping_flood_closes_the_connection(tight: Service) -> None:
    with http2.Connection(tight.grpc) as flood:
        with suppress(ConnectionError):  # it may be hung up on before it is through
            for _ in range(20):
                flood.send(http2.PING, 0, bytes(8))
        seen, seconds = flood.frames_until(http2.GOAWAY)
    assert seen[-1] in (http2.GOAWAY, -1)
    assert seconds < SLACK


def test_headers_over_the_limit_are_refused(tight: Service) -> None:
    for size in (HEADER_BYTES + 1, 40_000):
        for reply in (
            httpx.get(f"{tight.rest}/livez", headers={"X-Large": "a" * size}),
            httpx.get(f"{tight.rest}/livez?{'a' * size}"),
        ):
            assert reply.status_code in (400, 413)
            assert reply.headers["content-type"] == "application/problem+json"
            assert f"{HEADER_BYTES:,}" in reply.json()["detail"]
        with grpc.insecure_channel(tight.grpc) as channel:
            stub = tokenizer_pb2_grpc.TokenizerStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListTokenizers(
                    pb.ListTokenizersRequest(), metadata=[("x-large", "a" * size)], timeout=10
                )
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (
        httpx.get(f"{tight.rest}/livez", headers={"X-Large": "a" * (HEADER_BYTES // 2)}).status_code
        == 200
    )


def test_silent_connections_block_no_rest_caller(tight: Service) -> None:
    sent = threading.Event()

    def body() -> Iterator[bytes]:
        yield jpeg()
        sent.set()

    with (
        httpx.Client(base_url=tight.rest) as busy,
        ExitStack() as stack,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(busy.post, "/v1/encode?k=8", content=body(), timeout=30)
        assert sent.wait(30)  # connected before the silent ones, which may fill the limit
        silent = [stack.enter_context(connect(tight)) for _ in range(20 * CONNECTIONS)]
        assert httpx.get(f"{tight.rest}/livez", timeout=5).status_code == 200
        assert asked.result().status_code == 200

        def connections() -> int:
            found = psutil.Process(tight.process.pid).net_connections("tcp")
            return sum(one.status == psutil.CONN_ESTABLISHED for one in found)

        eventually(lambda: connections() < 3 * CONNECTIONS, 5, "the end of the silent")
        del silent


def test_grpc_connections_are_limited(tight: Service) -> None:
    with Client(tight.grpc) as client:
        expected = client.encode(jpeg(), 8)
        with ExitStack() as stack:
            connections = [
                stack.enter_context(http2.Connection(tight.grpc)) for _ in range(5 * CONNECTIONS)
            ]
            refused = [
                one
                for one in connections[-2 * CONNECTIONS :]
                if one.frames_until(http2.SETTINGS)[0][-1] == -1
            ]
            assert len(refused) == 2 * CONNECTIONS
            assert client.encode(jpeg(), 8) == expected
    time.sleep(0.5)
    with Client(tight.grpc) as client:
        assert client.encode(jpeg(), 8) == expected


@contextmanager
def peak_memory_growth(service: Service) -> Iterator[list[float]]:
    """Megabytes by which the gateway grew at most."""
    process, stop, growth = psutil.Process(service.process.pid), threading.Event(), [0.0]
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(0.002):
            growth[0] = max(growth[0], (process.memory_info().rss - before) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growth
    finally:
        stop.set()
        watcher.join()


def test_gzip_bomb_is_not_unpacked(tight: Service) -> None:
    bomb = pb.EncodeRequest(image=bytes(128 * 2**20))
    options = [("grpc.max_send_message_length", -1)]
    with (
        grpc.insecure_channel(tight.grpc, options) as channel,
        Client(tight.grpc) as client,
        peak_memory_growth(tight) as growth,
    ):
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Encode(bomb, compression=grpc.Compression.Gzip, timeout=60)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        honest = stub.Encode(
            pb.EncodeRequest(image=jpeg(), k=8), compression=grpc.Compression.Gzip, timeout=30
        )
        assert honest.tokens == client.encode(jpeg(), 8).to_bytes()
    assert growth[0] < 64  # half of it


def test_gigabyte_body_is_refused(tight: Service) -> None:
    with peak_memory_growth(tight) as growth:
        with connect(tight) as honest:
            honest.sendall(
                b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
            )
            assert b"TOO_LARGE" in rest_of(honest)[0]
        reply = httpx.post(f"{tight.rest}/v1/encode", content=iter([bytes(2**20)] * 40), timeout=30)
        assert reply.json()["code"] == "TOO_LARGE"
        with Client(tight.grpc) as client, pytest.raises(TooLarge):
            client.encode(bytes(40 * 2**20))
    assert growth[0] < 96


def test_rate_limit_refuses_and_recovers() -> None:
    rate, burst = 5.0, 5
    with (
        running(rate_limit=str(rate), rate_burst=str(burst)) as service,
        Client(service.grpc, retries=False) as client,
        httpx.Client(base_url=service.rest) as rest,
    ):

        def over_grpc() -> float | None:
            try:
                client.encode(jpeg(), 1)
            except Overloaded as error:
                assert error.code == "RATE_LIMITED"
                return error.retry_after
            return None

        def over_rest() -> float | None:
            forwarded = {
                "X-Forwarded-For": f"192.0.2.{time.monotonic_ns() % 250}"
            }  # a client that chose its address had no limit
            reply = rest.post("/v1/encode?k=1", content=jpeg(), headers=forwarded)
            if reply.status_code == 200:
                return None
            assert (reply.status_code, reply.json()["code"]) == (429, "RATE_LIMITED")
            return float(reply.headers["retry-after"])

        for ask in (over_grpc, over_rest):
            time.sleep(burst / rate + 0.1)
            started = time.monotonic()
            outcomes = [ask() for _ in range(30)]
            allowed = burst + rate * (time.monotonic() - started) + 1
            assert burst <= outcomes.count(None) <= allowed
            hints = [hint for hint in outcomes if hint is not None]
            assert hints
            assert max(hints) <= max(1, 1 / rate)  # Retry-After knows whole seconds only
        assert sample(service, "channeltok_errors_total", code="RATE_LIMITED") > 0
        # Both protocols draw from one bucket, and health is not asked for any.

        def refused_by_both() -> bool:
            while over_grpc() is None:
                pass
            return over_rest() is not None

        # It refills while a call is on its way; so few calls would not empty a bucket of their own.
        assert any(refused_by_both() for _ in range(burst - 1))
        assert all(rest.get("/livez").status_code == 200 for _ in range(30))
        # A stream waits for its turn.
        started = time.monotonic()
        results = list(client.encode_stream(crops(8), 1))
        assert not [result for result in results if isinstance(result, ChannelTokError)]
        assert time.monotonic() - started > (8 - burst) / rate - 0.2
        # So does each item of a batch, and each k of a decode but the first.
        tokens = Tokens(range(8), client.tokenizers()[0].fingerprint)
        time.sleep(burst / rate + 0.1)
        started = time.monotonic()
        batch = rest.post("/v1/encode:batch?k=1", files=[("image", one) for one in crops(8)])
        assert ["tokens" in line for line in batch.text.splitlines()] == [True] * 8
        assert time.monotonic() - started > (8 - burst) / rate - 0.2
        time.sleep(burst / rate + 0.1)
        started = time.monotonic()
        assert len(list(client.decode_progressive(tokens, range(1, 9)))) == 8
        assert time.monotonic() - started > (8 - burst) / rate - 0.2
