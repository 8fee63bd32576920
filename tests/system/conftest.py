from collections.abc import Generator, Iterator

import httpx
import pytest
from channeltok import Client

from tests.support.running import Service, running

_LOG_LINES = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the service's log to the report of a failed test."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Service):
                log = "".join(value.log[-_LOG_LINES:])
                report.sections.append((f"log of the service `{name}`", log))
    return report


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def rest(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.rest, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Client]:
    with Client(service.grpc, timeout=60) as connected:
        yield connected
