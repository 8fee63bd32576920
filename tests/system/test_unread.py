"""Callers that do not read, and more connections than are allowed: others are served, and the
service keeps what it needs for itself."""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest
from channeltok import ChannelTokError, Client

from tests.support import http2
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running

SEND_SECONDS, RECEIVE_SECONDS, SLACK = 2.0, 4.0, 6.0
CONNECTIONS = 20
OPEN_FILES = 700


@pytest.fixture(scope="module")
def few() -> Iterator[Service]:
    """A service with few connections, and with few descriptors."""
    limits = {
        "send_seconds": SEND_SECONDS,
        "receive_seconds": RECEIVE_SECONDS,
        "max_connections": CONNECTIONS,
    }
    with running(**{name: str(value) for name, value in limits.items()}) as service:
        yield service
        assert service.process.poll() is None
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


def connect(service: Service) -> socket.socket:
    host, port = re.sub("https?://", "", service.rest).split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((host, int(port)))
    return connection


def established(service: Service) -> int:
    """Connections of the REST port."""
    port = int(service.rest.rpartition(":")[2])
    found = psutil.Process(service.process.pid).net_connections("tcp")
    return sum(one.laddr.port == port and one.status != psutil.CONN_LISTEN for one in found)


def ask_without_reading(connection: socket.socket) -> None:
    """Ask again and again, until no more is taken."""
    connection.settimeout(0.5)
    with suppress(OSError):
        for _ in range(20_000):
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_responses_that_nobody_reads_end_the_connection(few: Service) -> None:
    before = established(few)
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(few)) for _ in range(CONNECTIONS // 2)]
        threads = [threading.Thread(target=ask_without_reading, args=(one,)) for one in slow]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert httpx.get(f"{few.rest}/livez", timeout=5).status_code == 200
        eventually(lambda: established(few) <= before + 1, SEND_SECONDS + 2 * SLACK, "their end")
    assert few.events("unread_replies")


def test_response_that_is_read_slowly_is_sent_to_its_end(few: Service) -> None:
    with connect(few) as slow:
        slow.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received, started = b"", time.monotonic()
        while more := slow.recv(1500):
            received += more
            time.sleep(0.25)
    assert time.monotonic() - started > SEND_SECONDS
    assert received.endswith(b"}")


def test_connections_beyond_the_limit_are_refused_and_those_that_work_stay(few: Service) -> None:
    with httpx.Client(base_url=few.rest) as busy, ExitStack() as stack:
        assert busy.get("/livez").status_code == 200
        half = (
            b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: image/jpeg\r\nContent-Length: 100\r\n\r\n"
        )
        for _ in range(5 * CONNECTIONS):  # requests in progress, which are not shed
            with suppress(OSError):
                stack.enter_context(connect(few)).sendall(half)
        assert max(established(few) for _ in range(30)) <= 2 * CONNECTIONS + 5
        eventually(lambda: httpx_is_served(few), RECEIVE_SECONDS + SLACK, "a place for others")


def httpx_is_served(service: Service) -> bool:
    try:
        return httpx.get(f"{service.rest}/livez", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_strangers_with_all_connections_leave_descriptors_to_healing() -> None:
    """The hard limit of open files is too low for all connections that the settings allow."""
    with (
        running(under=("prlimit", f"--nofile={OPEN_FILES}:{OPEN_FILES}")) as service,
        Client(service.grpc, timeout=60) as client,
        ExitStack() as stack,
    ):
        assert is_answered(client)  # it connects before the strangers do
        (fewer,) = service.events("fewer_connections")
        assert 50 < fewer["possible"] < OPEN_FILES / 3
        for _ in range(2 * fewer["possible"] + 50):
            with suppress(OSError):
                stack.enter_context(connect(service))
            with suppress(OSError):
                stack.enter_context(http2.Connection(service.grpc))
        assert len(os.listdir(f"/proc/{service.process.pid}/fd")) < OPEN_FILES - 100
        (triton,) = service.children("tritonserver")
        triton.kill()
        eventually(lambda: bool(service.events("restarting")), 30, "the restart")
        eventually(lambda: is_answered(client), 60, "an answer after the restart")


def is_answered(client: Client) -> bool:
    try:
        return client.encode(jpeg(), 8).k == 8
    except ChannelTokError:
        return False
