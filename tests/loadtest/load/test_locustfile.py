"""The locust users against the service, a closed port and faulty services.

Locust runs in a subprocess, as it replaces Python's sockets and threads with gevent's.
"""

import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from channeltok.v1 import tokenizer_pb2 as pb

from loadtest.load.workload import SHARE_OF_BUDGET
from tests.support.faulty_service import FINGERPRINT, FaultyService, start
from tests.support.running import ROOT, running

pytestmark = pytest.mark.bench
SLOW = 0.3
BUDGETS = [f"k={k}" for k in SHARE_OF_BUDGET]


@dataclass(frozen=True)
class Run:
    """Result of a run. requests, failures: the rows of its reports."""

    code: int
    log: str
    requests: list[dict[str, str]]
    failures: list[dict[str, str]]

    def of(self, kind: str, path: str) -> list[dict[str, str]]:
        """Requests of one protocol and method, with any budget."""
        return [
            row
            for row in self.requests
            if row["Type"] == kind and row["Name"].split(" ")[0] == path
        ]

    def errors(self, kind: str, path: str) -> set[str]:
        """Error messages of the failed requests of one protocol and method."""
        return {
            row["Error"]
            for row in self.failures
            if row["Method"] == kind and row["Name"].split(" ")[0] == path
        }


def locust(folder: Path, host: str, target: str, seconds: int) -> Run:
    """Run the locustfile with two users per protocol."""
    options = (
        "-f loadtest/load/locustfile.py --headless --users 4 --spawn-rate 4 --stop-timeout 10 "
        f"--host {host} --grpc {target} --run-time {seconds}s "
        f"--only-summary --csv {folder / 'report'} --html {folder / 'report.html'}"
    )
    process = subprocess.run(
        [sys.executable, "-m", "locust", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "<title>" in (folder / "report.html").read_text(), process.stderr
    requests, failures = (
        list(csv.DictReader((folder / f"report_{kind}.csv").read_text().splitlines()))
        for kind in ("stats", "failures")
    )
    assert requests[-1]["Name"] == "Aggregated"
    return Run(process.returncode, process.stderr, requests[:-1], failures)


class WrongService(FaultyService):
    """Refuses one budget, and decodes slowly to bytes that are not an image."""

    def Encode(self, request: pb.EncodeRequest, context: grpc.ServicerContext) -> pb.EncodeResponse:
        if request.k == 64:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return super().Encode(pb.EncodeRequest(image=request.image[:256], k=request.k), context)

    def Decode(self, request: pb.DecodeRequest, context: grpc.ServicerContext) -> pb.DecodeResponse:
        time.sleep(SLOW)
        return super().Decode(request, context)


class WrongRest(BaseHTTPRequestHandler):
    """Returns one id too few, and refuses to decode."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {"tokenizers": [{"image_size": 128}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/decode":
            self._answer(429, {"code": "OVERLOADED"})
        else:
            k = int(self.path.partition("k=")[2])
            self._answer(
                200,
                {"fingerprint": FINGERPRINT, "tokens": [7] * (k - 1)}
                if k != 256
                else {"fingerprint": FINGERPRINT},
            )

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def wrong_rest() -> Iterator[str]:
    """Base URL of a faulty REST service."""
    with ThreadingHTTPServer(("127.0.0.1", 0), WrongRest) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def wrong_grpc() -> Iterator[str]:
    """HOST:PORT of a faulty gRPC service."""
    server, target = start(WrongService())
    yield target
    server.stop(None).wait()


def test_users_of_both_protocols_get_right_answers_from_the_service(tmp_path: Path) -> None:
    with running() as service:
        run = locust(tmp_path, service.rest, service.grpc, seconds=4)
    assert run.code == 0, run.log
    assert run.failures == []
    for kind, path in (
        ("POST", "/v1/encode"),
        ("POST", "/v1/decode"),
        ("gRPC", "Encode"),
        ("gRPC", "Decode"),
    ):
        rows = run.of(kind, path)
        assert sum(int(row["Request Count"]) for row in rows) > 3
        assert {row["Name"].split(" ")[1] for row in rows} <= set(BUDGETS)
        assert all(
            0 < float(row["Min Response Time"]) <= float(row["Max Response Time"]) < 8000
            for row in rows
        )
        assert all(float(row["Average Content Size"]) > 30 for row in rows)


def test_users_report_every_call_to_a_closed_port_as_failure(tmp_path: Path) -> None:
    run = locust(tmp_path, "http://127.0.0.1:9", "127.0.0.1:9", seconds=2)
    assert run.code == 1
    assert all(row["Failure Count"] == row["Request Count"] for row in run.requests)
    assert run.errors("gRPC", "Encode") == {"UNAVAILABLE"}
    assert run.errors("POST", "/v1/encode") == {"ConnectionRefusedError(111, 'Connection refused')"}


def test_users_report_wrong_answers_and_refusals_by_name(
    tmp_path: Path, wrong_rest: str, wrong_grpc: str
) -> None:
    run = locust(tmp_path, wrong_rest, wrong_grpc, seconds=3)
    assert run.code == 1
    assert run.errors("gRPC", "Encode") == {"RESOURCE_EXHAUSTED OVERLOADED"}
    assert run.errors("gRPC", "Decode") == {"wrong answer: not a JPEG"}
    assert run.errors("POST", "/v1/encode") <= {
        f"wrong answer: {k - 1} ids, not {k}" for k in SHARE_OF_BUDGET
    } | {"wrong answer: not the JSON of the contract"}
    assert run.errors("POST", "/v1/decode") == {"429 OVERLOADED"}
    assert {row["Name"] for row in run.failures if row["Name"].startswith("Encode")} == {
        "Encode k=64"
    }
    assert min(float(row["Min Response Time"]) for row in run.of("gRPC", "Decode")) >= 1000 * SLOW
    # REST users go on while a gRPC user waits.
    over_grpc = [row for row in run.requests if row["Type"] == "gRPC"]
    over_rest = [row for row in run.requests if row["Type"] != "gRPC"]
    assert sum(int(row["Request Count"]) for row in over_rest) > sum(
        int(row["Request Count"]) for row in over_grpc
    )
