"""Who can use the page: with any device, theme, keyboard or token; and where it is off."""

import json
import re
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import AXE, DESKTOP, PHONE, opened, serious_findings, until
from tests.support.playground import TOKEN, Visit, visited, wait_for_k
from tests.support.running import Service, running


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci in tests/web")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_playground_is_accessible(
    browser: Browser, site: Service, visit: Visit, viewport: dict[str, int], scheme: str
) -> None:
    with visited(browser, site, Visit(viewport, scheme, visit.token)) as page:
        wait_for_k(page, 64)
        page.locator("#codecs").scroll_into_view_if_needed()
        until(page, "document.querySelector('#verdict').textContent.includes('bytes')")
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert serious_findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_playground_theme_follows_the_system_until_switched(
    browser: Browser, site: Service, visit: Visit
) -> None:
    def is_dark() -> bool:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 150

    with visited(browser, site, replace(visit, color_scheme="dark")) as page:
        wait_for_k(page, 64)
        assert is_dark()
        page.get_by_role("button", name="Dark theme").click()
        assert not is_dark()
        page.reload()
        wait_for_k(page, 64)
        assert not is_dark()


def test_playground_works_by_keyboard_alone(page: Page) -> None:
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    for control in (
        "theme",
        "split",
        "file",
        "k",
        "k-number",
        "target-kind",
        "play",
        "mix-slider",
        "class",
        "copy",
    ):
        assert control in reached, control


def test_playground_asks_for_a_token_where_the_service_does(
    browser: Browser, site: Service, visit: Visit
) -> None:
    if not visit.token:
        pytest.skip("the service asks for none")
    with opened(browser, f"{site.rest}/#image=coffee&k=20", expected="status of 401") as page:
        page.wait_for_selector("#access:visible")
        assert page.evaluate("document.activeElement.id") == "access-token"
        page.fill("#access-token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#access:visible")
        page.fill("#access-token", TOKEN)
        page.keyboard.press("Enter")
        wait_for_k(page, 20)
        assert page.locator("#access").is_hidden()
        stored = page.evaluate("[{...localStorage}, {...sessionStorage}]")
        assert TOKEN not in json.dumps(stored[0])
        assert TOKEN in json.dumps(stored[1])
        assert TOKEN not in page.url
        assert TOKEN not in page.inner_text("#snippet")
        assert "CHANNELTOK_BEARER_TOKEN" in page.inner_text("#snippet")
        page.reload()
        wait_for_k(page, 20)


def test_playground_hides_generation_where_none_is_served(browser: Browser) -> None:
    with running() as service, opened(browser, f"{service.rest}/") as page:
        wait_for_k(page, 64)
        assert page.locator("#generate").is_hidden()


def test_playground_can_be_switched_off() -> None:
    with running(page="false") as service:
        for path in ("/", "/playground/main.js", "/shared/style.css", "/live", "/live/live.js"):
            assert httpx.get(service.rest + path).status_code == 404
        assert httpx.get(f"{service.rest}/v1/tokenizers").status_code == 200
