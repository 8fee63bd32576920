"""Images, each built on first use, and the network of their containers."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.containers import images, podman

NETWORK = "channeltok-check"
SUBNET = "10.213.47"  # first three numbers of the addresses


@pytest.fixture(scope="session", autouse=True)
def prepared() -> None:
    """Podman and the base image."""
    podman.prepare()


@pytest.fixture(scope="session")
def cpu_image(prepared: None) -> str:
    return images.build_ours("cpu")


@pytest.fixture(scope="session")
def gateway_image(prepared: None) -> str:
    return images.build_ours("gateway")


@pytest.fixture(scope="session")
def loadtest_image(prepared: None) -> str:
    return images.build_ours("loadtest")


@pytest.fixture(scope="session")
def export_image(prepared: None) -> str:
    return images.build_ours("export")


@pytest.fixture(scope="session")
def triton_image(cpu_image: str) -> str:
    return images.build_triton()


@pytest.fixture(scope="session")
def prometheus_image(prepared: None) -> str:
    return images.build_prometheus()


@pytest.fixture(scope="session")
def network(prepared: None) -> Iterator[str]:
    """A bridge network on which containers find each other by name."""
    podman.podman("network", "rm", "-f", NETWORK, check=False)
    # The upper half is left to tests that ask for an address. Podman counts on from the last run's.
    lower = f"--ip-range={SUBNET}.0/25"
    podman.podman("network", "create", f"--subnet={SUBNET}.0/24", lower, NETWORK)
    yield NETWORK
    podman.podman("network", "rm", "-f", NETWORK, check=False)


def eventually(holds: Callable[[], bool], seconds: float, event: str, every: float = 0.1) -> float:
    """Wait until `holds()` is true and return the seconds; AssertionError after `seconds`."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {event}"
        time.sleep(every)
    return time.monotonic() - started
