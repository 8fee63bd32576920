"""One page of metrics for several processes, whatever happens to them and to their files."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from channeltok import Client
from prometheus_client.parser import text_string_to_metric_families

from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running


def processes(service: Service) -> dict[str, float]:
    """Name of each process -> its start time."""
    page = httpx.get(f"{service.rest}/metrics").raise_for_status().text
    return {
        row.labels["worker"]: row.value
        for family in text_string_to_metric_families(page)
        if family.name == "process_start_time_seconds"
        for row in family.samples
    }


@contextmanager
def scraped_all_the_time(service: Service) -> Iterator[list[float]]:
    """The counter of images, as often as /metrics answers."""
    counts: list[float] = []
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(0.02):
            try:
                counts.append(sample(service, "channeltok_images_total", rpc="encode"))
            except httpx.HTTPError:  # the worker that had the connection was killed
                continue

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield counts
    finally:
        done.set()
        scraper.join()


def test_metrics_survive_their_workers_and_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "there"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    with running(workers="2", probe_seconds="0.5") as service:
        limit = sample(service, "channeltok_images_in_flight_limit")
        with Client(service.grpc) as client:
            for _ in range(20):
                client.encode(jpeg())
        before = sample(service, "channeltok_images_total", rpc="encode")
        assert before >= 20
        started = processes(service)
        assert started.keys() == {"parent", "1", "2"}
        assert sample(service, "process_cpu_seconds_total", worker="1") > 0
        assert sample(service, "python_info") == 1

        def all_is_there() -> bool:
            with suppress(httpx.HTTPError):  # a connection to the worker that was killed
                return (
                    processes(service).keys() == started.keys()
                    and sample(service, "channeltok_images_in_flight_limit") == limit
                )
            return False

        with scraped_all_the_time(service) as counts:
            os.kill(int((folder / "1.pid").read_text()), signal.SIGKILL)
            eventually(
                lambda: all_is_there() and processes(service)["1"] > started["1"],
                30,
                "a new worker, and the gauges of two",
            )
            shutil.rmtree(tmp_path / "not", ignore_errors=True)  # it may be made again meanwhile
            eventually(all_is_there, 30, "the metrics of all processes")
        assert counts
        assert min(counts) == max(counts) == before
