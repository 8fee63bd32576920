"""The pictures of the live view in docs/images, under a made-up load: `make screenshots`."""

import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor

from channeltok import ChannelTokError, Client
from playwright.sync_api import Browser, Page

from loadtest.harness.service_process import ROOT, Service

POLLS, POLL_MS = 40, 5000
CALLERS = 6


def take(browser: Browser, service: Service) -> dict[str, bytes]:
    """Name -> PNG. The page's clock runs ahead, so that minutes of history take seconds."""
    pages = {
        "live": _open(browser, service, "light", {"width": 1200, "height": 860}),
        "live-dark": _open(browser, service, "dark", {"width": 1200, "height": 860}),
        "live-phone": _open(browser, service, "light", {"width": 390, "height": 844}, scale=2),
    }
    photo = (ROOT / "docs/images/coffee.jpg").read_bytes()
    chance = random.Random(0)
    with Client(service.grpc) as client, ThreadPoolExecutor(CALLERS) as callers:
        for polls in range(2, POLLS + 2):
            busy = CALLERS if polls % 20 > 12 else 2
            jobs = [(client, photo, chance.random()) for _ in range(chance.randint(busy, 3 * busy))]
            list(callers.map(_call, jobs))
            for page in pages.values():
                page.clock.run_for(POLL_MS)
                page.wait_for_selector(f"main[data-polls='{polls}']")
    return {name: page.screenshot() for name, page in pages.items()}


def _open(
    browser: Browser, service: Service, scheme: str, viewport: dict[str, int], scale: int = 1
) -> Page:
    page = browser.new_page(
        viewport=viewport,
        color_scheme=scheme,
        device_scale_factor=scale,
        is_mobile=scale > 1,
    )
    page.clock.install()
    page.clock.pause_at(time.time() + 1)
    page.goto(f"{service.rest}/live")
    page.wait_for_selector("main[data-polls='1']")
    return page


def _call(job: tuple[Client, bytes, float]) -> None:
    """Encode and sometimes decode; one call in 20 is wrong."""
    client, photo, chance = job
    with contextlib.suppress(ChannelTokError):
        tokens = client.encode(b"no image" if chance < 0.05 else photo, k=8 if chance < 0.5 else 64)
        if chance > 0.4:
            client.decode(tokens)
