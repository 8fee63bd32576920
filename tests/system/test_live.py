"""The live view in real Chromium: its figures are those that Python computes from the scrapes.

The page's clock is moved by the tests, so that polls and the times of points are exact.
"""

import itertools
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import pytest
from channeltok import Client, InvalidInput
from playwright.sync_api import Browser, Page, Response
from prometheus_client.parser import text_string_to_metric_families

from service.errors import ServiceError, is_ours
from service.rest.pages import WEB
from tests.support.browser import DESKTOP, PHONE, chromium, opened, serious_findings
from tests.support.chromium import CHROMIUM
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

PANELS = (WEB / "live/panels.js").read_text()
POLL, WINDOW = 5, 20  # seconds, as in service/web/live/history.js
TOKEN = "a-token-of-somebody-0123456789"
UNITS = {"ms": 1e-3, "s": 1.0, "/s": 1.0, "%": 0.01, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Whether the first chart has pixels of a colour, "rgb(...)".
DRAWN = """colour => {
    const context = document.querySelector("#traffic canvas").getContext("2d");
    const { data } = context.getImageData(0, 0, context.canvas.width, context.canvas.height);
    const wanted = colour.match(/[0-9]+/g).map(Number);
    const pixels = Array.from({ length: data.length / 4 }, (_, at) => 4 * at);
    const near = (at, part, channel) => Math.abs(data[at + channel] - part) < 8;
    return pixels.some(at => wanted.every((part, channel) => near(at, part, channel)));
}"""

CALLS_OF_ENCODE = (
    "[...document.querySelector('#traffic table.lines').tBodies[0].rows]"
    ".find(row => row.cells[0].textContent === 'encode')"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@dataclass
class Live:
    """An open page. replies: those of /metrics that it has had."""

    page: Page
    replies: list[Response] = field(default_factory=list)

    @property
    def scrapes(self) -> list[str]:
        return [reply.text() for reply in self.replies]

    def poll(self, times: int = 1) -> None:
        """Let the page ask again, and wait until it has drawn the answer."""
        for _ in range(times):
            polls = int(self.page.get_attribute("main", "data-polls") or 0)
            self.page.clock.run_for(POLL * 1000)
            self.drawn(polls + 1)

    def drawn(self, polls: int = 1) -> None:
        """Wait until the page has asked that often."""
        self.page.wait_for_selector(f"main[data-polls='{polls}']")

    def lines(self, chart: str, column: int = 1) -> dict[str, float]:
        """Line -> value now (column 1) or the highest (column 2), as the table of a chart says."""
        figure = self.page.locator("figure.chart", has=self.page.locator(f"h3:text-is('{chart}')"))
        return {
            cells[0]: number(cells[column])
            for cells in self._cells(figure.locator("table.lines tbody tr"))
        }

    def findings(self) -> list[str]:
        """Of axe-core, which needs a clock that runs."""
        self.page.clock.resume()
        found = serious_findings(self.page)
        self.page.clock.pause_at(self.page.evaluate("Date.now()") / 1000 + 1)
        return found

    def table(self, name: str) -> list[list[str]]:
        return self._cells(self.page.locator(f"#{name} tbody tr"))

    def tiles(self) -> dict[str, str]:
        return dict(
            self.page.locator("#tiles div").evaluate_all(
                "tiles => tiles.map(tile => [...tile.children].map(part => part.textContent))"
            )
        )

    @staticmethod
    def _cells(rows: Any) -> list[list[str]]:
        return rows.evaluate_all("rows => rows.map(row => [...row.cells].map(c => c.textContent))")


def number(text: str) -> float:
    """A figure of the page in base units: "12.5 ms" is 0.0125. NaN for "–"."""
    match = re.fullmatch(r"([\d.,]+) ?(\D*)", text)
    return float(match[1].replace(",", "")) * UNITS.get(match[2], 1.0) if match else float("nan")


@contextmanager
def live(browser: Browser, service: Service, expected: str = "", **options: Any) -> Iterator[Live]:
    """The page, with a clock that stands still until a test polls."""

    replies: list[Response] = []

    def prepare(page: Page) -> None:
        page.clock.install()
        page.clock.pause_at(time.time() + 1)
        page.on(
            "response",
            lambda reply: (
                replies.append(reply) if reply.url.endswith("/metrics") and reply.ok else None
            ),
        )

    with opened(browser, f"{service.rest}/live", expected, prepare=prepare, **options) as page:
        yield Live(page, replies)


def total(scrape: str, name: str, **labels: str) -> float:
    return sum(
        row.value
        for family in text_string_to_metric_families(scrape)
        for row in family.samples
        if row.name == name and all(row.labels.get(key) == labels[key] for key in labels)
    )


def growth(scrapes: list[str], name: str, **labels: str) -> float:
    """What a counter grew by from the first to the last of these scrapes."""
    return total(scrapes[-1], name, **labels) - total(scrapes[0], name, **labels)


def quantile(scrapes: list[str], q: float, name: str, **labels: str) -> float:
    """Of a histogram, over what it counted between these scrapes, in the way of Prometheus."""
    ends = sorted(
        {
            float(row.labels["le"])
            for family in text_string_to_metric_families(scrapes[-1])
            for row in family.samples
            if row.name == f"{name}_bucket"
        }
    )
    written = {float(text): text for text in le_texts(scrapes[-1], name)}
    counts = [growth(scrapes, f"{name}_bucket", le=written[end], **labels) for end in ends]
    rank, low, below = q * counts[-1], 0.0, 0.0
    for end, count in itertools.zip_longest(ends, counts):
        if count >= rank:
            return (
                low if end == float("inf") else low + (end - low) * (rank - below) / (count - below)
            )
        low, below = end, count
    raise AssertionError


def le_texts(scrape: str, name: str) -> set[str]:
    return {
        row.labels["le"]
        for family in text_string_to_metric_families(scrape)
        for row in family.samples
        if row.name == f"{name}_bucket"
    }


def drive(client: Client, images: int) -> None:
    """That many images there and back, and one call that fails."""
    image = jpeg()
    for _ in range(images):
        client.decode(client.encode(image, k=8))
    with pytest.raises(InvalidInput):
        client.encode(image, k=0)


def test_live_view_shows_what_a_load_did(
    browser: Browser, service: Service, client: Client
) -> None:
    with live(browser, service) as shown:
        shown.drawn()
        for images in (4, 9, 2, 6, 3):
            drive(client, images)
            shown.poll()
        recent = shown.scrapes[-1 - WINDOW // POLL :]
        calls = shown.lines("Calls by method")
        for rpc in ("encode", "decode"):
            expected = growth(recent, "channeltok_request_seconds_count", rpc=rpc) / WINDOW
            assert calls[rpc] == pytest.approx(expected, rel=0.01)
        assert calls["decode"] == pytest.approx((9 + 2 + 6 + 3) / WINDOW, rel=0.01)
        codes = shown.lines("Calls by code")
        assert codes["BAD_K"] == pytest.approx(4 / WINDOW, rel=0.01)

        latency = shown.lines("Latency")
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            expected = quantile(recent, q, "channeltok_request_seconds", code="OK")
            assert latency[name] == pytest.approx(expected, rel=0.01)
        shown.page.select_option("#method", "decode")
        shown.page.select_option("#quantile", "0.5")
        expected = quantile(recent, 0.5, "channeltok_request_seconds", rpc="decode", code="OK")
        assert shown.lines("Latency")["p50"] == pytest.approx(expected, rel=0.01)
        stages = shown.lines("Stages")
        assert {"admission", "unpack", "engine", "render"} <= stages.keys()
        for stage, value in stages.items():
            assert not isnan(value), stage
            expected = quantile(recent, 0.5, "channeltok_stage_seconds", rpc="decode", stage=stage)
            assert value == pytest.approx(expected, rel=0.01)

        batch = shown.lines("Batch size")
        for model in ("demo_encode", "demo_decode_k256"):
            expected = growth(recent, "channeltok_batch_size_sum", model=model) / growth(
                recent, "channeltok_batch_size_count", model=model
            )
            assert batch[model] == pytest.approx(expected, rel=0.01)
        limit = total(recent[-1], "channeltok_images_in_flight_limit")
        assert shown.lines("In flight")["limit"] == limit
        assert shown.tiles()["In flight"] == f"0 of {limit:g}"
        assert shown.lines("Memory")["limit"] == pytest.approx(
            total(recent[-1], "channeltok_memory_limit_bytes"), rel=0.01
        )

        whole = shown.scrapes
        rows = {(rpc, code): cells for rpc, code, *cells in shown.table("calls")}
        for (rpc, code), (count, *quantiles) in rows.items():
            labels = {"rpc": rpc, "code": code}
            assert number(count) == growth(whole, "channeltok_request_seconds_count", **labels)
            for text, q in zip(quantiles, (0.5, 0.95, 0.99), strict=True):
                expected = quantile(whole, q, "channeltok_request_seconds", **labels)
                assert number(text) == pytest.approx(expected, rel=0.01)
        assert number(rows["decode", "OK"][0]) == 4 + 9 + 2 + 6 + 3
        engines = {row[0]: row[1:] for row in shown.table("engines")}
        engine = httpx.post(f"{service.rest}/v1/encode?k=4", content=jpeg()).headers[
            "channeltok-engine"
        ]
        assert engines["demo_encode"][:3] == [engine, "ready", "1"]
        (tokenizer,) = httpx.get(f"{service.rest}/v1/tokenizers").json()["tokenizers"]
        assert [tokenizer["name"], tokenizer["fingerprint"], "served"] in shown.table("tokenizers")
        assert shown.page.inner_text("#state") == "ready"
        # The page asks for nothing that the service does not have.
        for name in re.findall(r"^  (\w+): \[", PANELS, re.MULTILINE):
            forms = (name, name.rpartition("_")[0])
            assert any(f"# TYPE {form} " in recent[-1] for form in forms), name


def test_live_view_calls_a_fault_what_the_service_calls_one() -> None:
    faults = re.search(r"FAULTS = \[(.*)\]", PANELS)
    assert faults is not None
    codes = {kind.code for kind in (ServiceError, *ServiceError.__subclasses__())}
    assert set(re.findall(r"\w+", faults[1])) == {code for code in codes if is_ours(code)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_live_view_is_readable(
    browser: Browser, service: Service, client: Client, viewport: Any, scheme: Any
) -> None:
    # Lines of methods that nobody calls any more lie on each other, at 0.
    list(client.decode_stream(client.encode_stream([jpeg()], k=8)))
    with live(browser, service, viewport=viewport, color_scheme=scheme) as shown:
        shown.drawn()
        drive(client, 2)
        shown.poll(2)
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        swatch = f"getComputedStyle({CALLS_OF_ENCODE}.querySelector('.swatch')).borderTopColor"
        eventually(lambda: shown.page.evaluate(DRAWN, shown.page.evaluate(swatch)), 5, "a chart")
        # A switch between light and dark, by the system or the button, redraws the charts.
        for switch in (
            lambda: shown.page.emulate_media(color_scheme="light" if scheme == "dark" else "dark"),
            shown.page.get_by_role("button", name="Dark theme").click,
        ):
            before = shown.page.evaluate(swatch)
            switch()
            eventually(lambda before=before: shown.page.evaluate(swatch) != before, 5, "colours")
            eventually(
                lambda: shown.page.evaluate(DRAWN, shown.page.evaluate(swatch)), 5, "a chart"
            )
        shown.page.get_by_role("button", name="Pause").press("Enter")
        highest = shown.lines("Calls by method", 2)
        drive(client, 10)
        shown.poll()
        assert shown.lines("Calls by method", 2) == highest
        shown.page.get_by_role("button", name="Pause").press("Enter")
        assert shown.lines("Calls by method", 2)["decode"] > highest["decode"]
        assert shown.findings() == []


def test_live_view_asks_for_a_token_and_survives_a_restart(
    browser: Browser, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"bearer_token_file": str(tokens), "rest_port": port}
    with running(**settings) as service:  # noqa: SIM117
        with live(browser, service, expected="Failed to load resource") as shown:
            page = shown.page
            page.get_by_label("Bearer token").wait_for()
            assert page.inner_text("#state") == "needs a token"
            assert page.evaluate("document.activeElement.id") == "token"
            assert shown.findings() == []
            assert shown.replies == []
            page.get_by_label("Bearer token").fill("a-wrong-token-0123456789")
            page.keyboard.press("Enter")
            refusal = httpx.get(
                f"{service.rest}/metrics", headers={"Authorization": "Bearer wrong"}
            ).json()
            page.get_by_text(refusal["detail"]).wait_for()
            assert shown.replies == []
            page.get_by_label("Bearer token").fill(TOKEN)
            page.keyboard.press("Enter")
            page.wait_for_selector("#state.good")
            assert page.inner_text("#state") == "ready"
            assert page.get_by_label("Bearer token").is_hidden()
            stored = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href]")
            assert not any(TOKEN in place for place in stored)

            with Client(service.grpc, bearer_token=TOKEN) as client:
                drive(client, 30)
            for _ in range(3):
                httpx.get(f"{service.rest}/v1/tokenizers")  # without a token
            shown.poll()
            assert shown.lines("Calls by method")["decode"] == 30 / POLL
            assert shown.lines("Refused")["UNAUTHENTICATED"] == pytest.approx(3 / POLL)
            highest = shown.lines("Calls by method", 2)

            service.stop()
            page.clock.run_for(POLL * 1000)
            page.get_by_text("no answer").wait_for()
            with running(**settings) as again:
                with Client(again.grpc, bearer_token=TOKEN) as client:
                    drive(client, 40)
                shown.poll(2)
                assert page.inner_text("#state") == "ready"
                assert shown.lines("Calls by method")["decode"] == (30 + 40) / WINDOW
                assert shown.lines("Calls by method", 2) == highest
                assert shown.tiles()["Restarts"] == "1"
                since = page.inner_text("#since")

                page.reload()
                shown.drawn()
                assert page.inner_text("#since") == since
                assert shown.lines("Calls by method", 2) == highest
                assert page.inner_text("#state") == "ready"
