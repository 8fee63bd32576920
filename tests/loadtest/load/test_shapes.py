"""Each load shape with real locust on the real service, also with a master and two workers."""

import contextlib
import csv
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.running import ROOT, Service, eventually, running

pytestmark = pytest.mark.bench
SHAPES = "loadtest/load/locustfile.py,loadtest/load/shapes"
HEADLESS = "--headless --only-summary --stop-timeout 10"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running(max_queue_seconds="30") as service:  # no refusals on a busy machine
        yield service


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def command(service: Service, files: str, options: str) -> list[str]:
    target = f"-f {files} --host {service.rest} --grpc {service.grpc}"
    return [sys.executable, "-m", "locust", *target.split(), *options.split()]


def locust(service: Service, shape: str, options: str) -> str:
    """Run locust with a shape; returns its log."""
    files = f"loadtest/load/locustfile.py,loadtest/load/shapes/{shape}.py"
    result = subprocess.run(
        command(service, files, f"{HEADLESS} {options}"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def history(folder: Path) -> list[int]:
    """Number of users in each second."""
    rows = csv.DictReader((folder / "report_stats_history.csv").read_text().splitlines())
    return [int(row["User Count"]) for row in rows if row["Name"] == "Aggregated"]


def test_ramp_ends_at_the_knee_and_logs_each_step(service: Service) -> None:
    # The users' pauses exceed the service's latency, so at least two steps gain; 400 overload it.
    log = locust(service, "ramp", "--step-users 8 --step-seconds 1.5 --most-users 400")
    steps = [int(users) for users in re.findall(r"(\d+) users: [\d.]+ successful calls/s", log)]
    assert steps == [8 * number for number in range(1, len(steps) + 1)]
    assert 3 <= len(steps) < 20


def test_ramp_ends_at_most_users(service: Service) -> None:
    log = locust(service, "ramp", "--step-users 1 --step-seconds 1 --most-users 1")
    assert re.findall(r"(\d+) users: ", log) == ["1"]


def test_spike_rises_and_falls(service: Service, tmp_path: Path) -> None:
    reports = f"--csv {tmp_path / 'report'} --html {tmp_path / 'report.html'}"
    locust(service, "spike", f"--base-users 2 --peak-users 10 --hold-seconds 3 {reports}")
    users = history(tmp_path)
    assert max(users) == 10
    peak = users.index(10)
    assert 2 in users[:peak]
    assert 2 in users[peak:]
    assert "<title>" in (tmp_path / "report.html").read_text()


def test_soak_keeps_its_number_of_users(service: Service, tmp_path: Path) -> None:
    locust(service, "soak", f"--soak-users 3 --soak-seconds 4 --csv {tmp_path / 'report'}")
    assert set(history(tmp_path)) <= {0, 3}
    assert 3 in history(tmp_path)


def test_master_and_two_workers_follow_a_shape(service: Service, tmp_path: Path) -> None:
    port = free_port()
    files = "loadtest/load/locustfile.py,loadtest/load/shapes/soak.py"
    master = f"--master --master-bind-port {port} --expect-workers 2"
    shape = f"--soak-users 4 --soak-seconds 4 --csv {tmp_path / 'report'}"
    worker = command(service, files, f"--worker --master-port {port} --stop-timeout 10")
    workers = [
        subprocess.Popen(
            worker, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    try:
        result = subprocess.run(
            command(service, files, f"{HEADLESS} {master} {shape}"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        logs = [worker.communicate(timeout=20)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert result.returncode == 0, result.stderr + "".join(logs)
    assert [worker.returncode for worker in workers] == [0, 0], logs
    assert (
        "2 workers" in result.stderr
        or len(re.findall(r"Worker .* reported as ready", result.stderr)) == 2
    )
    assert max(history(tmp_path)) == 4
    rows = list(csv.DictReader((tmp_path / "report_stats.csv").read_text().splitlines()))
    assert int(rows[-1]["Request Count"]) > 10
    assert rows[-1]["Failure Count"] == "0"


def test_web_ui_of_the_image_offers_all_shapes() -> None:
    """The command and environment of docker compose, on another port."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    environment = compose["services"]["loadtest"]["environment"]
    stage = (ROOT / "Dockerfile").read_text().partition(" AS loadtest\n")[2]
    program: list[str] = yaml.safe_load(stage.partition("ENTRYPOINT ")[2].partition("\n")[0])
    web, bind = free_port(), free_port()
    options = ["--master", "--master-bind-port", bind, "--web-host", "127.0.0.1", "--web-port", web]
    process = subprocess.Popen(
        [sys.executable, *program[1:], *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    page: list[str] = []

    def shown() -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{web}/", timeout=5) as reply,
        ):
            page.append(reply.read().decode())
        return bool(page)

    try:
        eventually(shown, event="the web UI")
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert all(f'"{shape}"' in page[-1] for shape in ("Ramp", "Spike", "Soak"))
    assert "peak_users" in page[-1]
