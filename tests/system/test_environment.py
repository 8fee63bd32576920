"""The service where people run it: on a part of a machine, and with nobody to read its log."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from channeltok import ChannelTokError, Client

from loadtest.harness.environments import bare, dead_proxies
from loadtest.harness.service_process import python_path
from service import health_check
from service.observability import metrics_folder
from tests.support.control_groups import cpu_quota
from tests.support.ipv6 import needs_ipv6
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, eventually, running
from tests.support.trace_collector import collecting

# The async client, and httpx as the load tests use it.
ASYNC_CLIENT = """
import asyncio, sys
from channeltok import AsyncClient
async def main():
    async with AsyncClient(sys.argv[1]) as client:
        await client.encode(open(sys.argv[2], "rb").read())
asyncio.run(main())
"""
COMMAND = "import sys; from channeltok.cli import main; sys.exit(main())"
HTTPX = "import loadtest, httpx, sys; print(httpx.get(sys.argv[1]).raise_for_status().text)"


def test_service_under_a_cpu_quota_is_as_large_as_the_quota() -> None:
    with cpu_quota(1) as under, running(under=under) as service, Client(service.grpc) as client:
        assert client.encode(jpeg()).k
        assert sample(service, "channeltok_images_in_flight_limit") == 8
        assert sample(service, "channeltok_image_workers", lane="light") == 1
        engines = service.children("triton_python")
        models = {engine.cmdline()[1] for engine in engines}
        assert len(engines) == len(models) > 0, "one process for each model"


@pytest.mark.parametrize(
    ("closed", "workers"),
    [(True, "1"), (False, "1"), (False, "2")],
    ids=["closed", "unread", "unread, two workers"],
)
def test_service_without_a_reader_of_its_output_works_heals_and_stops(
    closed: bool, workers: str
) -> None:
    with running(log_level="debug", probe_seconds="0.5", workers=workers) as service:
        service.stop_reading(close=closed)
        with httpx.Client(base_url=service.rest, timeout=30) as rest:
            for _ in range(1000):  # several times what a pipe holds
                assert rest.get(f"/{'long' * 25}").status_code == 404
        (triton,) = service.children("tritonserver")
        triton.kill()
        eventually(lambda: triton not in service.children("tritonserver"), 30, "its end")
        eventually(lambda: encodes(service), 60, "the healing")
        if closed:
            assert sample(service, "channeltok_log_lines_lost_total") >= 1000
        assert service.stop(signal.SIGTERM, timeout=40) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_whose_supervisor_ends_stops_with_an_error(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers != "1":
        # Else it starts itself anew, without what the test changes in it.
        for name, value in metrics_folder.prepare(str(tmp_path), int(workers)).items():
            monkeypatch.setenv(name, value)
    program = ("-m", "tests.support.programs.lost_supervisor")
    with running(program, probe_seconds="0.5", workers=workers) as service:
        service.process.send_signal(signal.SIGUSR1)
        eventually(lambda: service.process.poll() is not None, 60, "its end")
        assert service.process.returncode == 1
    assert service.events("supervisor_ended")


def test_dead_proxies_are_not_asked_for_anything_on_this_machine(tmp_path: Path) -> None:
    with collecting() as collector:
        traces = [f"OTEL_EXPORTER_OTLP_ENDPOINT={collector.url}", "OTEL_BSP_SCHEDULE_DELAY=200"]
        with running(under=[*dead_proxies(), *traces]) as service:
            photo = tmp_path / "photo.jpg"
            photo.write_bytes(jpeg())

            def run(*program: str) -> str:
                result = subprocess.run(
                    [*dead_proxies(), sys.executable, *program],
                    cwd=ROOT,
                    env={**os.environ, **python_path(str(ROOT))},
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                assert result.returncode == 0, result.stderr
                return result.stdout

            for server in (service.grpc, service.grpc.replace("127.0.0.1", "localhost")):
                run("-c", COMMAND, "encode", str(photo), "--server", server)
                run("-c", ASYNC_CLIENT, server, str(photo))
            run("-m", "service.health_check", "--rest-port", service.rest.rpartition(":")[2])
            page = run("-c", HTTPX, f"{service.rest}/metrics")
            assert "nv_inference_count" in page, "Triton's own metrics"
            eventually(
                lambda: (
                    encodes(service)  # again, because an exporter may lose a batch
                    and bool(collector.of("channeltok-gateway") and collector.of("triton"))
                ),
                30,
                "the spans",
            )


@pytest.mark.parametrize(("host", "workers"), [("::", "1"), ("[::1]", "2"), ("localhost", "1")])
@needs_ipv6
def test_service_on_ipv6_answers_on_both_ports_and_prints_where(host: str, workers: str) -> None:
    with running(host=host, workers=workers) as service:
        assert ("[::1]" in service.rest) == ("[::1]" in service.grpc) == (":" in host)
        rest_port, grpc_port = (url.rpartition(":")[2] for url in (service.rest, service.grpc))
        addresses = {"::": ["[::1]", "127.0.0.1"], "[::1]": ["[::1]"]}.get(host, ["localhost"])
        for address in addresses:
            reply = httpx.post(f"http://{address}:{rest_port}/v1/encode", content=jpeg())
            assert reply.status_code == 200
            with Client(f"{address}:{grpc_port}") as client:
                assert client.encode(jpeg()).k
        assert encodes(service)
        for same in {host, host.strip("[]")}:
            options = health_check.settings(["--host", same, "--rest-port", rest_port])
            assert health_check.check(options) is None


def test_service_works_as_a_user_without_name_home_and_variables() -> None:
    """As containers run it under a random user id."""
    if os.geteuid():
        pytest.skip("only root can take another user id")
    # Root's files stay readable: Python may be among them.
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    user = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *rights)
    with running(under=[*bare(), *user]) as service:
        assert set(psutil.Process(service.process.pid).uids()) == {54321}
        assert encodes(service)


def test_service_without_a_temporary_folder_says_which_variable_helps() -> None:
    """No file can grow, so none of the usual folders will do. Only workers need one."""
    result = subprocess.run(
        ["prlimit", "--fsize=0", sys.executable, "-m", "service", "--workers", "2"],
        cwd=ROOT,
        env={**os.environ, "CHANNELTOK_REST_PORT": "0", "CHANNELTOK_GRPC_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "TMPDIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_service_without_standard_streams_gives_their_numbers_to_nothing_else() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "service"],
        cwd=ROOT,
        env={**os.environ, "CHANNELTOK_REST_PORT": port, "CHANNELTOK_GRPC_PORT": "0"},
    )
    try:
        options = health_check.settings(["--rest-port", port])
        eventually(lambda: health_check.check(options) is None, 60, "readiness")
        folder = Path(f"/proc/{process.pid}/fd")
        places = [(folder / number).readlink() for number in "012"]
        assert [str(place).partition(":")[0] for place in places] == [
            "/dev/null",
            "/dev/null",
            "pipe",
        ]
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()


def test_service_works_without_variables_in_a_folder_with_any_name(tmp_path: Path) -> None:
    checkout = tmp_path / "a folder, \u00e9 & 'more'"
    for package in ("service", "imaging", "client", "model_repository"):
        shutil.copytree(ROOT / package, checkout / package)
    with running(under=bare(), checkout=str(checkout)) as service:
        assert Path(f"/proc/{service.process.pid}/cwd").readlink() == checkout
        assert encodes(service)


def encodes(service: Service) -> bool:
    try:
        with Client(service.grpc, timeout=5, retries=False) as client:
            return bool(client.encode(jpeg()).k)
    except ChannelTokError:
        return False
