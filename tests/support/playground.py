"""The playground in Chromium: how tests open it, use it and read what it shows."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

from service.rest.pages import WEB
from tests.support.browser import DESKTOP, PHONE, opened
from tests.support.running import ROOT, Service

SAMPLES = WEB / "playground/samples"
CAT = (SAMPLES / "cat.webp").read_bytes()
COFFEE = (SAMPLES / "coffee.webp").read_bytes()
TOKEN = "a-token-of-the-playground-tests"
SIZE = 128  # of the demo tokenizer's images


@dataclass(frozen=True)
class Visit:
    """How a user comes to the page. token: of a service that asks for one."""

    viewport: dict[str, int]
    color_scheme: str
    token: str | None = None


# Each value of each choice once; two visits instead of eight.
VISITS = {
    "desktop-light-open": Visit(DESKTOP, "light"),
    "phone-dark-token": Visit(PHONE, "dark", TOKEN),
}


@contextmanager
def visited(
    browser: Browser, site: Service, visit: Visit, address: str = "", expected: str = ""
) -> Iterator[Page]:
    """The page at `address`, a part after #, with the token given. expected: as for opened."""
    with opened(
        browser,
        f"{site.rest}/{address}",
        expected=expected or ("status of 401" if visit.token else ""),
        viewport=visit.viewport,
        color_scheme=visit.color_scheme,
    ) as page:
        if visit.token:
            page.fill("#access-token", visit.token)
            page.keyboard.press("Enter")
        yield page


def wait_for_k(page: Page, k: int) -> None:
    page.wait_for_selector(f'#canvas-decoded[data-k="{k}"]')


def set_range(page: Page, selector: str, value: int) -> None:
    page.locator(selector).fill(str(value))


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """Name and content of the file that a button of the page saves."""
    page.evaluate("document.querySelector('.more').open = true")
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def canvas(page: Page, selector: str) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]."""
    width, height, values = page.evaluate(
        """selector => {
          const canvas = document.querySelector(selector);
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.width, canvas.height, [...data]];
        }""",
        selector,
    )
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def pixels(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def figure(page: Page, name: str) -> float:
    return float(page.inner_text(f"#figure-{name}").split()[0])


def give_file(page: Page, name: str, content: bytes, field: str = "#file") -> None:
    page.set_input_files(field, {"name": name, "mimeType": "", "buffer": content})


def environment(visit: Visit) -> dict[str, str]:
    """Of a user who has installed the client, and has the token where the examples want it."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}/client",
        **({"CHANNELTOK_BEARER_TOKEN": visit.token} if visit.token else {}),
    }
