"""Our images, run as in docker-compose.yml, are hardened, healthy, and stop without losing work."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
import trustme
from channeltok import ChannelTokError, Client, Tokens

from tests.containers import podman
from tests.containers.conftest import SUBNET, eventually
from tests.containers.images import note
from tests.containers.podman import Container, running
from tests.support.certificates import issue, write_ca
from tests.support.photographs import jpeg

pytestmark = pytest.mark.containers
PORTS = ("-p", "127.0.0.1::8080", "-p", "127.0.0.1::50051")
READY_SECONDS = 60
CLIENTS = 8
# How long Triton's name stays unknown: after that gRPC would wait 10 s or more to resolve it again.
TRITON_SECONDS = 20


def is_ready(container: Container) -> bool:
    """Whether /readyz reports readiness."""
    try:
        url = f"http://{container.published[8080]}/readyz"
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def encode_and_decode(container: Container) -> None:
    """Encode and decode over both protocols."""
    with Client(container.published[50051]) as client:
        tokens = client.encode(jpeg(), 64)
        assert client.decode(tokens, "png").startswith(b"\x89PNG")
    rest = f"http://{container.published[8080]}/v1"
    with httpx.Client(trust_env=False, timeout=30) as http:
        encoded = http.post(f"{rest}/encode?k=64", content=jpeg())
        assert Tokens.from_bytes(_token_bytes(http, rest)) == tokens
        decoded = http.post(f"{rest}/decode", json=encoded.json(), headers={"accept": "image/png"})
        assert decoded.content.startswith(b"\x89PNG")


def _token_bytes(http: httpx.Client, rest: str) -> bytes:
    accepted = {"accept": "application/vnd.channeltok.tokens"}
    return (
        http.post(f"{rest}/encode?k=64", content=jpeg(), headers=accepted)
        .raise_for_status()
        .content
    )


class Load:
    """Clients of both protocols, until stopped. outcomes: count by OK or error code."""

    def __init__(self, container: Container, clients: int = CLIENTS) -> None:
        self.outcomes: Counter[str] = Counter()
        self._rest_address, self._grpc_address = (
            container.published[8080],
            container.published[50051],
        )
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=(self._grpc, self._rest)[i % 2]) for i in range(clients)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _grpc(self) -> None:
        with Client(self._grpc_address, retries=False) as client:
            while not self._stop.is_set():
                try:
                    client.encode(jpeg(), 64)
                    self.outcomes["OK"] += 1
                except ChannelTokError as error:
                    self.outcomes[error.code] += 1
                    time.sleep(0.05)

    def _rest(self) -> None:
        with httpx.Client(trust_env=False, timeout=httpx.Timeout(30, connect=1)) as http:
            while not self._stop.is_set():
                try:
                    reply = http.post(f"http://{self._rest_address}/v1/encode?k=64", content=jpeg())
                    self.outcomes["OK" if reply.is_success else _code_of(reply)] += 1
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    self.outcomes["not connected"] += 1
                    time.sleep(0.05)
                except httpx.TransportError as error:
                    self.outcomes[type(error).__name__] += 1


def _code_of(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["code"])
    except ValueError:
        return f"{reply.status_code} {reply.headers} {reply.text[:80]!r}"


def stop_under_load(container: Container) -> float:
    """SIGTERM under load loses no accepted request and logs no error. Returns the seconds."""
    with Load(container) as load:
        eventually(lambda: load.outcomes["OK"] > 20, 30, "20 answers")
        code, seconds = container.stop(30)
    assert code == 0
    # A request on an idle connection that is being closed was not accepted: at most one per REST
    # client.
    closed = sum(
        load.outcomes.pop(name, 0) for name in ("ReadError", "WriteError", "RemoteProtocolError")
    )
    assert closed <= CLIENTS // 2, load.outcomes
    assert set(load.outcomes) <= {"OK", "STOPPING", "UNAVAILABLE", "not connected"}, load.outcomes
    log = container.logs()
    assert '"unfinished": 0' in log
    assert '"level": "error"' not in log, log
    return seconds


def assert_hardened(container: Container, user: str) -> None:
    """Check the first process's user, capabilities and privileges, and a read-only root."""
    status = podman.podman("exec", container.name, "cat", "/proc/1/status").stdout
    assert re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE) == [user]
    assert set(re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\s+(\w+)", status, re.MULTILINE)) == {
        "0" * 16
    }
    assert re.findall(r"^NoNewPrivs:\s+(\d)", status, re.MULTILINE) == ["1"]
    write = "open('/app/here', 'w')"
    refused = podman.podman("exec", container.name, "python", "-c", write, check=False)
    assert "Read-only file system" in refused.stderr


def test_cpu_image_serves_alone(cpu_image: str, network: str) -> None:
    started = time.monotonic()
    with running(cpu_image, "--network", network, *PORTS) as service:
        eventually(lambda: is_ready(service), READY_SECONDS, "readiness")
        ready = time.monotonic() - started
        assert service.healthy()
        assert_hardened(service, "10001")
        encode_and_decode(service)
        resident = service.resident_bytes()
        drained = stop_under_load(service)
    note(
        "cpu",
        ready_seconds=round(ready, 1),
        resident_mb=round(resident / 1e6),
        stopped_seconds=round(drained, 1),
    )


@pytest.fixture(scope="module")
def gateway(gateway_image: str, network: str) -> Iterator[Container]:
    """A gateway whose Triton does not run yet."""
    settings = ("-e", "CHANNELTOK_TRITON_URL=triton:8001")
    with running(gateway_image, "--network", network, *PORTS, *settings, name="gateway") as started:
        yield started


def triton(image: str, network: str, *options: str) -> AbstractContextManager[Container]:
    """A Triton on the CPU, with its name of docker-compose.yml."""
    return running(
        image,
        "--network",
        network,
        "-p",
        "127.0.0.1::8000",
        "--user",
        "1000:1000",
        *options,
        name="triton",
    )


def triton_answers(container: Container) -> bool:
    """Whether its HTTP port reports readiness."""
    try:
        url = f"http://{container.published[8000]}/v2/health/ready"
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_gateway_finds_a_triton_that_starts_late_or_moves(
    gateway: Container, triton_image: str, network: str
) -> None:
    """By default gRPC resolves a name again after 10 to 120 s."""
    eventually(lambda: '"event": "not_ready"' in gateway.logs(), 20, "the reason in the log")
    assert "Triton at triton:8001 does not answer" in gateway.logs()
    assert not gateway.healthy()
    time.sleep(TRITON_SECONDS)
    lines = gateway.logs().count('"event": "not_ready"')
    assert lines <= 3  # not one per poll
    waits = []
    for address in (210, 211):  # last part of its address: it moves
        with triton(triton_image, network, f"--ip={SUBNET}.{address}") as server:
            eventually(lambda server=server: triton_answers(server), 30, "Triton")
            waits.append(eventually(lambda: is_ready(gateway), 30, "readiness"))
            if address == 210:
                encode_and_decode(gateway)
        eventually(lambda: not is_ready(gateway), 30, "the end of readiness")
    assert max(waits) < 5, waits
    note("gateway", ready_after_triton_seconds=round(max(waits), 1))


def test_gateway_image_serves_with_a_separate_triton(
    gateway: Container, gateway_image: str, triton_image: str, network: str
) -> None:
    with triton(triton_image, network):
        eventually(lambda: is_ready(gateway), READY_SECONDS, "readiness")
        assert gateway.healthy()
        assert_hardened(gateway, "10001")
        encode_and_decode(gateway)
        resident = gateway.resident_bytes()
        # The gateway has logged errors while there was no Triton, so a second one is stopped.
        settings = ("-e", "CHANNELTOK_TRITON_URL=triton:8001")
        started = time.monotonic()
        with running(
            gateway_image, "--network", network, *PORTS, *settings, name="gateway-2"
        ) as second:
            eventually(lambda: is_ready(second), READY_SECONDS, "readiness")
            ready = time.monotonic() - started
            drained = stop_under_load(second)
    note(
        "gateway",
        ready_seconds=round(ready, 1),
        resident_mb=round(resident / 1e6),
        stopped_seconds=round(drained, 1),
    )


@pytest.mark.parametrize("mutual", [False, True])
def test_health_check_supports_tls_and_other_ports(
    gateway_image: str, network: str, tmp_path: Path, mutual: bool
) -> None:
    ca = trustme.CA()
    files = issue(ca, tmp_path, "server")
    settings = {"TLS_CERTIFICATE": "/tls/server.pem", "TLS_KEY": "/tls/server.key"}
    if mutual:
        write_ca(trustme.CA(), tmp_path, "clients")  # it did not sign the server's certificate
        settings["TLS_CLIENT_CA"] = "/tls/clients.pem"
    tmp_path.chmod(0o755)
    files.key.chmod(0o644)
    options = ["-v", f"{tmp_path}:/tls:ro", "-e", "CHANNELTOK_TRITON_URL=127.0.0.1:1"]
    options += [
        word for name, value in settings.items() for word in ("-e", f"CHANNELTOK_{name}={value}")
    ]
    with running(
        gateway_image, "--network", network, *options, command=["--rest-port", "9443"]
    ) as service:
        check = ["exec", service.name, "python", "-m", "service.health_check"]
        eventually(
            lambda: "no answer" not in podman.podman(*check, check=False).stderr, 30, "an open port"
        )
        result = podman.podman(*check, check=False)
        # It answers over TLS and is not ready, because there is no Triton.
        assert result.returncode == (0 if mutual else 1)
        assert mutual or "not ready: " in result.stderr
        assert "TLS failed" not in result.stderr


def test_loadtest_image_runs_headless_for_its_run_time(
    loadtest_image: str, gateway: Container, triton_image: str, network: str
) -> None:
    with triton(triton_image, network):
        eventually(lambda: is_ready(gateway), READY_SECONDS, "readiness")
        target = ["--host", "http://gateway:8080", "--grpc", "gateway:50051"]
        load = ["--headless", "--users", "4", "--spawn-rate", "4", *target]
        with running(
            loadtest_image, "--network", network, command=[*load, "--run-time", "4s"]
        ) as locust:
            assert locust.wait(timeout=60) == 0, locust.logs()
            log = locust.logs()
            assert "All users spawned: " in log
            assert re.search(r"Aggregated +\d+ +0\(0\.00%\)", log), log
        with running(
            loadtest_image, "--network", network, command=[*load, "--run-time", "10m"]
        ) as locust:
            eventually(lambda: "All users spawned: " in locust.logs(), 30, "users")
            assert_hardened(locust, "10001")
            code, seconds = locust.stop(30)
            assert seconds < 15
            assert code == 0, locust.logs()
    note("loadtest", stopped_seconds=round(seconds, 1))


def test_images_import_their_entry_points(
    gateway_image: str, cpu_image: str, export_image: str
) -> None:
    """As tests/deploy/test_image_imports.py, in the image itself."""
    modules = {
        gateway_image: "service.__main__",
        cpu_image: "service.__main__",
        export_image: "export.__main__",
    }
    for image, module in modules.items():
        podman.podman(
            "run",
            "--rm",
            "--read-only",
            "--network=none",
            "--entrypoint=python",
            image,
            "-c",
            f"import {module}",
        )
