"""Pages of the service in Chromium, and what they must not do."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page

from loadtest.harness.browser import chromium
from tests.support.running import ROOT

__all__ = ["AXE", "DESKTOP", "PHONE", "chromium", "opened", "serious_findings", "until"]

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
AXE = ROOT / "tests/web/node_modules/axe-core/axe.min.js"


@contextmanager
def opened(
    browser: Browser,
    url: str,
    expected: str = "",
    prepare: Callable[[Page], None] = lambda page: None,
    **options: Any,
) -> Iterator[Page]:
    """A page, which must leave the console empty and ask no other origin for anything.

    expected: a text of console errors that may come, such as "status of 401". prepare: called
    before it is loaded. options: of the context, such as viewport and color_scheme.
    """
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    requests: list[str] = []
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type == "error" and not (expected and expected in message.text)
            else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    prepare(page)
    page.goto(url)
    try:
        yield page
        assert complaints == []
        origin = "/".join(url.split("/")[:3])
        inside = (f"{origin}/", f"blob:{origin}/", "data:")
        assert not [one for one in requests if not one.startswith(inside)]
    finally:
        context.close()


def until(page: Page, script: str, argument: Any = None) -> None:
    """Wait until a script is true. Playwright's own way needs eval, which our pages forbid."""
    deadline = time.monotonic() + 20
    while not page.evaluate(script, argument):
        assert time.monotonic() < deadline, f"not true after 20 s: {script}"
        page.wait_for_timeout(20)


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds wrong, of impact serious or critical: rule, and the elements."""
    page.evaluate(AXE.read_text())
    result = page.evaluate("axe.run()")
    return [
        f"{finding['id']}: {[node['html'][:120] for node in finding['nodes']]}"
        for finding in result["violations"]
        if finding["impact"] in ("serious", "critical")
    ]
