"""The pictures of the playground and the live view in docs/images: `make screenshots`."""

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from loadtest import live_screenshots
from loadtest.harness.browser import chromium
from loadtest.harness.service_process import running

IMAGES = Path(__file__).parent.parent / "docs/images"
_DESKTOP = {"width": 1200, "height": 960}
_MARGIN = 32  # pixels around a section
_PHONE = {"width": 390, "height": 844}


def main() -> None:
    """Write docs/images/{playground,live}*.webp, from a service with the environment's settings."""
    with running() as service, chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=_DESKTOP, color_scheme=scheme)
            page.goto(f"{service.rest}/#image=coffee&k=64")
            _wait(page)
            _save(page, "playground" if scheme == "light" else "playground-dark")
            if scheme == "light":
                _sections(page)
            page.close()
        phone = browser.new_page(viewport=_PHONE, device_scale_factor=2, is_mobile=True)
        phone.goto(f"{service.rest}/#image=cat&k=32")
        _wait(phone)
        _save(phone, "playground-phone")
        for name, png in live_screenshots.take(browser, service).items():
            _write(png, name)


def _wait(page: Page) -> None:
    page.wait_for_selector("#strip button:last-child canvas[data-k]")


def _sections(page: Page) -> None:
    page.locator("#codecs").scroll_into_view_if_needed()
    page.locator("#verdict", has_text="bytes").wait_for()
    _save_section(page, "codecs")
    page.locator("#mix").scroll_into_view_if_needed()
    page.wait_for_selector("#mix-canvas[data-s]")
    _save_section(page, "mix")
    if page.locator("#generate").is_visible():
        page.select_option("#class", "sunflower")
        page.fill("#guidance", "4")
        page.fill("#seed", "4")
        page.get_by_role("button", name="Generate").click()
        page.wait_for_selector("#generate-open:visible", timeout=60_000)
        _save_section(page, "generate")


def _save(page: Page, name: str) -> None:
    _write(page.screenshot(), name)


def _save_section(page: Page, name: str) -> None:
    box = page.locator(f"#{name}").bounding_box()
    assert box is not None
    page.evaluate("document.querySelector('header').style.position = 'static'")  # it would cover it
    top = box["y"] + page.evaluate("scrollY") - _MARGIN
    clip = {"x": 0, "y": top, "width": _DESKTOP["width"], "height": box["height"] + 2 * _MARGIN}
    _write(page.screenshot(full_page=True, clip=clip), f"playground-{name}")


def _write(png: bytes, name: str) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(IMAGES / f"{name}.webp", quality=82, method=6)


if __name__ == "__main__":
    main()
