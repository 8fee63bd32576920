"""The reference at /docs, in Chromium: a token is given once, and calls are made from the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import chromium, opened
from tests.support.chromium import CHROMIUM
from tests.support.photographs import jpeg
from tests.support.running import Service, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

TOKEN = "a-token-of-the-reference-tests"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("locked") / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with running(bearer_token_file=str(file)) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def docs(browser: Browser, locked: Service) -> Iterator[Page]:
    with opened(browser, f"{locked.rest}/docs", expected="status of 401") as page:
        yield page


def execute(page: Page, operation: str) -> str:
    """Status of a call that the page makes."""
    page.locator(f"#operations-tokens-{operation} button.execute").click()
    live = page.locator(f"#operations-tokens-{operation} .live-responses-table .response")
    return live.locator(".response-col_status").inner_text().split()[0]


def test_reference_calls_with_the_token_of_authorize(docs: Page, tmp_path: Path) -> None:
    docs.locator("#operations-tokens-listTokenizers .opblock-summary-control").click()
    assert execute(docs, "listTokenizers") == "401"
    docs.locator("button.authorize").first.click()
    docs.locator(".modal-ux input").fill(TOKEN)
    docs.locator(".modal-ux button.authorize").click()
    docs.locator(".modal-ux .close-modal").click()
    docs.locator("#operations-tokens-listTokenizers button.btn-clear").click()
    assert execute(docs, "listTokenizers") == "200"
    # Encode takes a file, and shows tokens unless another type is chosen.
    docs.locator("#operations-tokens-encode .opblock-summary-control").click()
    file = tmp_path / "astronaut.jpg"
    file.write_bytes(jpeg())
    encode = docs.locator("#operations-tokens-encode")
    encode.locator("input[type=file]").set_input_files(file)
    assert execute(docs, "encode") == "200"
    assert '"tokens": [' in encode.locator(".live-responses-table .highlight-code").inner_text()
