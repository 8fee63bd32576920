"""A generator that takes texts, on the page."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from channeltok import Client, Generated, GenerateParams
from playwright.sync_api import Browser, Page

from tests.support import random_car
from tests.support.browser import until
from tests.support.playground import VISITS, canvas, environment, pixels, visited
from tests.support.running import Service, running

VISIT = VISITS["desktop-light-open"]
PROMPT = "l'abeille \u871c\u8702"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("words") / "models"
    random_car.write_beside_a_gpt(models)
    with running(model_repository=str(models)) as service:
        yield service


@pytest.fixture
def form(browser: Browser, words: Service) -> Iterator[Page]:
    """The page with the generator of texts chosen."""
    with visited(browser, words, VISIT) as page:
        page.locator("#generate").scroll_into_view_if_needed()
        assert page.locator("#class").is_visible()
        assert not page.locator("#prompt").is_visible()
        page.select_option("#generator", "words")
        page.fill("#prompt", PROMPT)
        page.fill("#seed", "7")
        yield page


def test_playground_generates_from_a_prompt(form: Page, words: Service) -> None:
    assert not form.locator("#class").is_visible()
    form.get_by_label("Prompt").wait_for()
    form.get_by_role("button", name="Generate").click()
    form.get_by_text("32 tokens, seed 7.").wait_for()
    # As the form says it
    params = GenerateParams(
        prompt=PROMPT, seed=7, temperature=0.85, top_k=200, top_p=1.0, guidance=4.0
    )
    with Client(words.grpc) as client:
        (made,) = (event for event in client.generate(params) if isinstance(event, Generated))
        expected = pixels(client.decode(made.tokens, "png"))
    assert np.array_equal(canvas(form, "#generate-canvas"), expected)
    form.select_option("#generator", "labels")
    form.select_option("#class", "bee")
    form.get_by_role("button", name="Generate").click()
    form.get_by_text("32 tokens, seed 7.").wait_for()


def test_playground_address_keeps_the_prompt(form: Page, words: Service, browser: Browser) -> None:
    until(form, "location.hash.includes('abeille')")
    address = form.evaluate("location.hash")
    with visited(browser, words, VISIT, address) as again:
        until(again, "document.querySelector('#prompt').value !== ''")
        assert again.input_value("#prompt") == PROMPT
        assert again.input_value("#generator") == "words"


@pytest.mark.parametrize("language", ["Python", "curl", "Command line"])
def test_playground_examples_quote_the_prompt(
    form: Page, words: Service, tmp_path: Path, language: str
) -> None:
    form.select_option("#call-kind", "generate")
    form.get_by_role("radiogroup", name="Language").get_by_text(language, exact=True).click()
    text = form.inner_text("#snippet")
    command = [sys.executable, "-c", text] if language == "Python" else ["sh", "-ec", text]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(VISIT),
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    if language == "curl":
        assert "event: done" in done.stdout
    else:
        assert (tmp_path / "generated.png").read_bytes().startswith(b"\x89PNG")
