"""The service where people run it: on a part of a machine, and with nobody to read its log."""

import signal
from pathlib import Path

import httpx
import pytest
from channeltok import ChannelTokError, Client

from tests.support.control_groups import cpu_quota
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running


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
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # else it starts itself anew
    program = ("-m", "tests.support.programs.lost_supervisor")
    with running(program, probe_seconds="0.5", workers=workers) as service:
        service.process.send_signal(signal.SIGUSR1)
        eventually(lambda: service.process.poll() is not None, 60, "its end")
        assert service.process.returncode == 1
    assert service.events("supervisor_ended")


def encodes(service: Service) -> bool:
    try:
        with Client(service.grpc, timeout=5) as client:
            return bool(client.encode(jpeg()).k)
    except ChannelTokError:
        return False
