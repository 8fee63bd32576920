"""Debian's Prometheus scrapes the real service and its real Triton: under load every query yields, and what breaks is told.

What a test cannot cause within seconds, burning for hours say, is proved by deploy/prometheus/tests alone."""

import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from channeltok import ChannelTokError, Client

from tests.deploy.test_grafana import panels
from tests.deploy.test_runbook import PROMTOOL_QUERY, runbook_commands
from tests.support.photographs import crops, jpeg
from tests.support.prometheus import ALERTS, RECORDINGS, Prometheus, program, promtool, scraping
from tests.support.running import Service, eventually, running, standing_still

QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
    for panel in panels()
    for target in panel["targets"]
}
QUERIES_OF_THE_RUNBOOK = sorted(
    {
        words[8]
        for command in runbook_commands()
        if (words := shlex.split(command.partition(" | ")[0]))[:7] == PROMTOOL_QUERY
    }
)
OF_GENERATORS = (
    "channeltok_time_to_first_token_seconds",
    "channeltok_inter_token_latency_seconds",
)  # none is served here
EMPTY_WHEN_HEALTHY = {"Alerts A"}
# How fast is slow depends on the machine and on what else runs there.
MACHINE_DECIDES = {"ChannelTokLatencyBudgetBurn", "ChannelTokLatencyBudgetBurnSlow"}


@contextmanager
def callers(count: int, work: Callable[[], object]) -> Iterator[None]:
    """`count` threads repeat `work`, whatever comes of it."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            with suppress(ChannelTokError, httpx.TransportError):
                work()

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def stubs(service: Service) -> list[psutil.Process]:
    """The processes that compute."""
    return service.children("stub")


def kill_stubs(service: Service) -> None:
    """kill -9 to the processes that compute."""
    for stub in stubs(service):
        stub.kill()


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[Service, str]]:
    """A gateway with a Triton elsewhere, as docker-compose.yml has it, and the address of that Triton's metrics."""
    program("prometheus")
    with running() as owner, running(triton_url=owner.triton_address()) as guest:
        yield guest, owner.triton_address("metrics")


@pytest.fixture(scope="module")
def loaded(
    gateway: tuple[Service, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus after some seconds of all that the service does, a few wrong calls among them."""
    service, triton = gateway
    rest = service.rest.removeprefix("http://")
    with Client(service.grpc, timeout=60) as client:

        def work() -> None:
            tokens = [client.encode(jpeg(), k) for k in (8, 32, 256)]
            for one in tokens:
                client.decode(one)
            list(client.encode_stream(crops(4), k=8))
            list(client.decode_stream(tokens))
            httpx.post(f"{service.rest}/v1/encode?k=64", content=jpeg()).raise_for_status()
            assert httpx.post(f"{service.rest}/v1/encode", content=b"no image").status_code == 422
            with suppress(ChannelTokError):
                client.encode(jpeg(), 999)

        work()
        with scraping(
            tmp_path_factory.mktemp("prometheus"), gateways=[rest], tritons=[triton]
        ) as prometheus:
            eventually(
                lambda: len(prometheus.query("up == 1")) == 2,
                20,
                "the first scrape of both targets",
            )
            with callers(2, work):
                eventually(
                    lambda: bool(prometheus.query("sum(count_over_time(up[1m])) > 20")),
                    30,
                    "ten scrapes of each",
                )
                yield prometheus


def test_our_exposition_follows_the_rules_of_naming(gateway: tuple[Service, str]) -> None:
    page = httpx.get(f"{gateway[0].rest}/metrics").raise_for_status().text
    assert "channeltok_request_seconds" in page
    assert "\nnv_" not in page  # Triton's names are Triton's
    checked = promtool("check", "metrics", given=page)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_dashboard_yields_data_under_load(loaded: Prometheus, name: str) -> None:
    expect_data(loaded, QUERIES[name], empty=name in EMPTY_WHEN_HEALTHY)


@pytest.mark.parametrize("record", RECORDINGS)
def test_a_recording_yields_data_under_load(loaded: Prometheus, record: str) -> None:
    expect_data(loaded, RECORDINGS[record])
    expect_data(loaded, record, empty=of_generators(RECORDINGS[record]))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_silent_under_an_ordinary_load(loaded: Prometheus, alert: str) -> None:
    if alert in MACHINE_DECIDES:
        loaded.query(ALERTS[alert]["expr"])  # valid, at least
    else:
        expect_data(loaded, ALERTS[alert]["expr"], empty=True)


@pytest.mark.parametrize("command", QUERIES_OF_THE_RUNBOOK)
def test_a_query_of_the_runbook_can_be_asked(loaded: Prometheus, command: str) -> None:
    asked = promtool("query", "instant", loaded.url, command)
    assert asked.returncode == 0, asked.stdout + asked.stderr


def test_no_rule_fails(loaded: Prometheus) -> None:
    assert loaded.unhealthy_rules() == []
    assert set(loaded.firing()) <= MACHINE_DECIDES


def test_what_breaks_is_told(tmp_path: Path) -> None:
    """Faults of callers, overload, a killed engine, one that nobody heals, no engine, no gateway: each alert in its turn."""
    program("prometheus")
    with ExitStack() as stack:
        one = stack.enter_context(
            running(max_in_flight="2", max_queue_size="2", probe_seconds="0.5")
        )
        two = stack.enter_context(running(triton_url=one.triton_address(), probe_seconds="0.5"))
        to_one, to_two = (
            stack.enter_context(Client(service.grpc, timeout=20)) for service in (one, two)
        )
        addresses = [service.rest.removeprefix("http://") for service in (one, two)]
        prometheus = stack.enter_context(
            scraping(tmp_path, gateways=addresses, tritons=[one.triton_address("metrics")])
        )
        told: set[str] = set()

        def fires(*names: str) -> None:
            def all_fire() -> bool:
                firing = prometheus.firing()
                for alert in firing.values():
                    assert "error" not in alert["annotations"]["description"], (
                        alert
                    )  # a template that cannot be filled in
                told.update(firing)
                return set(names) <= set(firing)

            try:
                eventually(all_fire, 40)
            except AssertionError:
                missing = set(names) - set(prometheus.firing())
                raise AssertionError(
                    f"{missing} do not fire: {prometheus.query('ALERTS')}"
                ) from None

        eventually(
            lambda: len(prometheus.query("up == 1")) == 3 and not prometheus.firing(),
            20,
            "the first scrape of all targets",
        )
        with callers(4, lambda: to_two.encode(b"no image")):
            fires("ChannelTokClientFaults")
        assert told <= {"ChannelTokClientFaults"} | MACHINE_DECIDES
        with callers(16, lambda: to_one.encode(jpeg())):
            fires("ChannelTokOverloaded", "ChannelTokSaturated")
        assert (
            told
            <= {"ChannelTokClientFaults", "ChannelTokOverloaded", "ChannelTokSaturated"}
            | MACHINE_DECIDES
        )  # overload is no outage

        healthy = len(stubs(one))
        kill_stubs(one)
        with callers(1, lambda: to_one.encode(jpeg())):
            fires("ChannelTokEngineRestarted")

        # All of them, or Triton would start one more after the next kill.
        eventually(
            lambda: (
                httpx.get(f"{one.rest}/readyz").status_code == 200 and len(stubs(one)) == healthy
            ),
            30,
            "readiness",
        )
        with standing_still(one):  # nobody heals the Triton that the other one uses
            kill_stubs(one)
            fires(
                "ChannelTokEngineNotReady",
                "ChannelTokGatewayNotReady",
                "ChannelTokNoTokenizerReady",
                "ChannelTokGatewayDown",
            )
        one.stop()
        with callers(2, lambda: to_two.encode(jpeg())):
            fires(
                "ChannelTokTritonDown", "ChannelTokErrorBudgetBurn", "ChannelTokErrorBudgetBurnSlow"
            )
        assert "ChannelTokNoGateway" not in told
        two.stop()
        fires("ChannelTokNoGateway")
        eventually(
            lambda: "ChannelTokNoTokenizerReady" not in prometheus.firing(),
            20,
            "the end of what no gateway reports any more",
        )
        assert (
            set(ALERTS) - told
            <= {"ChannelTokFingerprintsDiffer", "ChannelTokFirstTokenSlow"} | MACHINE_DECIDES
        )


def of_generators(expr: str) -> bool:
    """Whether it asks for what only generators have."""
    of = set(re.findall(r"[a-z_]+:[\w:]+", expr))
    return any(metric in expr for metric in OF_GENERATORS) or any(
        of_generators(RECORDINGS[name]) for name in of & set(RECORDINGS)
    )


def expect_data(prometheus: Prometheus, expr: str, *, empty: bool = False) -> None:
    """AssertionError when the query is not valid, or is (or is not) empty against expectation."""
    result = prometheus.query(expr)
    assert bool(result) != (empty or of_generators(expr)), f"{expr}: {result}"
