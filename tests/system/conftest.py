from collections.abc import Iterator

import httpx
import pytest
from channeltok import Client

from tests.support.running import Service, running


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
