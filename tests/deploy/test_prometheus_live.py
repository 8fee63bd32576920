"""Prometheus scrapes the real service and Triton: queries return data, and faults fire alerts.

Alerts on hours of errors are covered by deploy/prometheus/tests alone.
"""

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

from tests.support.forwarding import over_tcp
from tests.support.monitoring import panels, runbook_commands
from tests.support.photographs import crops, jpeg
from tests.support.prometheus import ALERTS, RECORDINGS, Prometheus, program, promtool, scraping
from tests.support.running import Service, eventually, running, standing_still

QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
    for panel in panels()
    for target in panel["targets"]
}
PROMTOOL_QUERY = ["docker", "compose", "exec", "prometheus", "promtool", "query", "instant"]
RUNBOOK_QUERIES = sorted(
    {
        words[8]
        for command in runbook_commands()
        if (words := shlex.split(command.partition(" | ")[0]))[:7] == PROMTOOL_QUERY
    }
)
# No generator is served here.
GENERATOR_METRICS = (
    "channeltok_time_to_first_token_seconds",
    "channeltok_inter_token_latency_seconds",
)
FIRING_ALERTS = "Alerts A"
# Latency depends on the machine and its other load.
DEPEND_ON_MACHINE = {"ChannelTokLatencyBudgetBurn", "ChannelTokLatencyBudgetBurnSlow"}


@contextmanager
def clients(count: int, work: Callable[[], object]) -> Iterator[None]:
    """Repeat `work` in `count` threads, ignoring errors."""
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
    """The engine processes."""
    return service.children("stub")


def kill_stubs(service: Service) -> None:
    """kill -9 all engine processes."""
    for stub in stubs(service):
        stub.kill()


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[Service, str]]:
    """A gateway with a remote Triton, and that Triton's metrics address."""
    program("prometheus")
    with (
        running() as owner,
        running(triton_url=owner.triton_address()) as guest,
        over_tcp(owner.triton_address("metrics")) as metrics,
    ):
        yield guest, metrics


@pytest.fixture(scope="module")
def loaded(
    gateway: tuple[Service, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus after some seconds of all kinds of calls, some of them invalid."""
    service, triton = gateway
    rest = service.rest.removeprefix("http://")
    with Client(service.grpc, timeout=60) as client:

        def work() -> None:
            tokens = [client.encode(jpeg(), k) for k in (8, 32, 256)]
            for sequence in tokens:
                client.decode(sequence)
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
            with clients(2, work):
                eventually(
                    lambda: bool(prometheus.query("sum(count_over_time(up[1m])) > 20")),
                    30,
                    "ten scrapes of each",
                )
                yield prometheus


def test_metrics_page_follows_naming_conventions(gateway: tuple[Service, str]) -> None:
    page = httpx.get(f"{gateway[0].rest}/metrics").raise_for_status().text
    assert "channeltok_request_seconds" in page
    assert "\nnv_" not in page  # Triton's names are not ours
    result = promtool("check", "metrics", stdin=page)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", sorted(set(QUERIES) - {FIRING_ALERTS}))
def test_dashboard_query_returns_data_under_load(loaded: Prometheus, name: str) -> None:
    expect_data(loaded, QUERIES[name])


def test_dashboard_shows_no_alerts_under_load(loaded: Prometheus) -> None:
    firing = {row["metric"]["alertname"] for row in loaded.query(QUERIES[FIRING_ALERTS])}
    assert firing <= DEPEND_ON_MACHINE


@pytest.mark.parametrize("record", RECORDINGS)
def test_recording_rule_returns_data_under_load(loaded: Prometheus, record: str) -> None:
    expect_data(loaded, RECORDINGS[record])
    expect_data(loaded, record, empty=needs_generator(RECORDINGS[record]))


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_is_silent_under_normal_load(loaded: Prometheus, alert: str) -> None:
    if alert in DEPEND_ON_MACHINE:
        loaded.query(ALERTS[alert]["expr"])  # only check that it is valid
    else:
        expect_data(loaded, ALERTS[alert]["expr"], empty=True)


@pytest.mark.parametrize("command", RUNBOOK_QUERIES)
def test_runbook_query_is_valid(loaded: Prometheus, command: str) -> None:
    result = promtool("query", "instant", loaded.url, command)
    assert result.returncode == 0, result.stdout + result.stderr


def test_rules_evaluate_without_errors(loaded: Prometheus) -> None:
    assert loaded.unhealthy_rules() == []
    assert set(loaded.firing()) <= DEPEND_ON_MACHINE


def test_faults_fire_their_alerts(tmp_path: Path) -> None:
    """Overload, invalid calls, a killed engine, one without recovery, no engine, no gateway."""
    program("prometheus")
    with ExitStack() as stack:
        owner = stack.enter_context(
            running(max_in_flight="2", max_queue_size="2", probe_seconds="0.5")
        )
        guest = stack.enter_context(running(triton_url=owner.triton_address(), probe_seconds="0.5"))
        metrics = stack.enter_context(over_tcp(owner.triton_address("metrics")))
        to_owner, to_guest = (
            stack.enter_context(Client(service.grpc, timeout=20, retries=False))
            for service in (owner, guest)
        )
        addresses = [service.rest.removeprefix("http://") for service in (owner, guest)]
        fired: set[str] = set()

        # Saturation is an average since the first scrape, so the load starts before Prometheus.
        with clients(16, lambda: to_owner.encode(jpeg())):
            prometheus = stack.enter_context(
                scraping(tmp_path, gateways=addresses, tritons=[metrics])
            )

            def expect_firing(*names: str) -> None:
                def all_fire() -> bool:
                    firing = prometheus.firing()
                    for alert in firing.values():  # every template can be filled in
                        assert "error" not in alert["annotations"]["description"], alert
                    fired.update(firing)
                    return set(names) <= set(firing)

                try:
                    eventually(all_fire, 40)
                except AssertionError:
                    missing = set(names) - set(prometheus.firing())
                    alerts = prometheus.query("ALERTS")
                    raise AssertionError(f"{missing} do not fire: {alerts}") from None

            eventually(lambda: len(prometheus.query("up == 1")) == 3, 20, "the first scrapes")
            # Before the first scrapes no gateway was seen, and the next evaluation ends that alert.
            eventually(lambda: "ChannelTokNoGateway" not in prometheus.firing(), 20)
            fired.clear()
            expect_firing("ChannelTokOverloaded", "ChannelTokSaturated")
        expected = {"ChannelTokOverloaded", "ChannelTokSaturated"} | DEPEND_ON_MACHINE
        assert fired <= expected  # overload is not an outage
        with clients(4, lambda: to_guest.encode(b"not an image")):
            expect_firing("ChannelTokClientFaults")
        assert fired <= expected | {"ChannelTokClientFaults"}

        healthy = len(stubs(owner))
        kill_stubs(owner)
        with clients(1, lambda: to_owner.encode(jpeg())):
            expect_firing("ChannelTokEngineRestarted")

        # Wait for all of them, or Triton would start one more after the next kill.
        def recovered() -> bool:
            ready = httpx.get(f"{owner.rest}/readyz").status_code == 200
            return ready and len(stubs(owner)) == healthy

        eventually(recovered, 30, "recovery")
        with standing_still(owner):  # nothing restarts the engines that the guest uses
            kill_stubs(owner)
            expect_firing(
                "ChannelTokEngineNotReady",
                "ChannelTokGatewayNotReady",
                "ChannelTokNoTokenizerReady",
                "ChannelTokGatewayDown",
            )
        owner.stop()
        with clients(2, lambda: to_guest.encode(jpeg())):
            expect_firing(
                "ChannelTokTritonDown", "ChannelTokErrorBudgetBurn", "ChannelTokErrorBudgetBurnSlow"
            )
        assert "ChannelTokNoGateway" not in fired
        guest.stop()
        expect_firing("ChannelTokNoGateway")
        eventually(
            lambda: "ChannelTokNoTokenizerReady" not in prometheus.firing(),
            20,
            "the end of an alert whose gateways are gone",
        )
        silent = {
            "ChannelTokFingerprintsDiffer",
            "ChannelTokFirstTokenSlow",
            "ChannelTokLogLinesLost",
            "ChannelTokMemoryFull",
        }
        assert set(ALERTS) - fired <= silent | DEPEND_ON_MACHINE


def needs_generator(expr: str) -> bool:
    """Whether a query uses metrics that only generators have."""
    recordings = set(re.findall(r"[a-z_]+:[\w:]+", expr)) & set(RECORDINGS)
    return any(metric in expr for metric in GENERATOR_METRICS) or any(
        needs_generator(RECORDINGS[name]) for name in recordings
    )


def expect_data(prometheus: Prometheus, expr: str, *, empty: bool = False) -> None:
    """AssertionError if the query is invalid, or has no result though one is expected."""
    result = prometheus.query(expr)
    assert bool(result) != (empty or needs_generator(expr)), f"{expr}: {result}"
