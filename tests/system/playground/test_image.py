"""The first part of the page: the image, k, and images and tokens of one's own."""

from urllib.parse import quote

import numpy as np
import pytest
from channeltok import Client, Quality, Tokens
from PIL import Image
from playwright.sync_api import Browser, Page

import imaging
from imaging.fit import content_box
from imaging.similarity import psnr, ssim
from tests.support.browser import until
from tests.support.photographs import encoded, jpeg, photograph
from tests.support.playground import (
    CAT,
    SIZE,
    Visit,
    canvas,
    figure,
    give_file,
    pixels,
    saved,
    set_range,
    visited,
    wait_for_k,
)
from tests.support.running import Service


def test_playground_shows_what_the_client_decodes(page: Page, caller: Client) -> None:
    tokens = caller.encode(CAT, 64)
    name, png = saved(page, "Image (.png)")
    assert name == "cat.k64.png"
    assert png == caller.decode(tokens, "png")
    assert np.array_equal(canvas(page, "#canvas-decoded"), pixels(png))
    page.evaluate("document.querySelector('.ids').open = true")
    assert [int(text) for text in page.inner_text("#ids").split()] == tokens.ids.tolist()


def test_playground_figures_are_those_of_the_service(page: Page, caller: Client) -> None:
    _, png = saved(page, "Image (.png)")
    seen, decoded = imaging.prepare(CAT, SIZE), pixels(png)
    # Browsers and Pillow scale the colours of a WebP up by different filters.
    assert np.abs(canvas(page, "#canvas-seen").astype(int) - seen).mean() < 1.5
    assert figure(page, "ssim") == pytest.approx(
        float(ssim(seen[None], decoded[None])[0]), abs=0.01
    )
    assert figure(page, "psnr") == pytest.approx(float(psnr(seen[None], decoded[None])[0]), abs=0.2)
    assert (figure(page, "tokens"), figure(page, "bytes")) == (64, 128)
    assert page.inner_text("h1") == "A picture in 64 tokens, 128 bytes"


def test_playground_slider_changes_the_image(page: Page, caller: Client) -> None:
    tokens = caller.encode(CAT)
    page.focus("#k")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    wait_for_k(page, 61)
    set_range(page, "#k", 7)
    wait_for_k(page, 7)
    assert np.array_equal(
        canvas(page, "#canvas-decoded"), pixels(caller.decode(tokens.prefix(7), "png"))
    )
    page.fill("#k-number", "256")
    wait_for_k(page, 256)
    assert figure(page, "bytes") == 512
    until(page, "document.querySelector('#announce').textContent.includes('256 tokens')")
    assert page.get_attribute("#k", "aria-valuetext") == "256 tokens, 512 bytes"


def test_playground_divider_moves_by_keyboard_and_pointer(page: Page) -> None:
    def split() -> str:
        return page.evaluate("document.querySelector('#divider').style.getPropertyValue('--split')")

    page.focus("#split")
    page.keyboard.press("ArrowRight")
    assert split() == "51%"
    box = page.locator("#divider").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 20)
    assert abs(int(split().removesuffix("%")) - 25) <= 1


def test_playground_curve_chooses_k(page: Page) -> None:
    until(page, "document.querySelectorAll('#curve .now').length === 1")
    page.locator("#curve").scroll_into_view_if_needed()
    box = page.locator("#curve").bounding_box()
    assert box is not None
    middle = 34 + (box["width"] - 44) / 2  # half of the way from 1 to 256, by powers: 16
    page.mouse.click(box["x"] + middle, box["y"] + 60)
    wait_for_k(page, 16)
    page.get_by_role("radiogroup", name="Measure of the curve").get_by_text("PSNR").click()
    until(page, "document.querySelector('#curve-text').textContent.includes('dB')")
    until(page, "document.querySelector('#curve-text').textContent.includes('at k = 256')")


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("ssim", "0.4", "The fewest tried that reach SSIM 0.4"),
        ("psnr", "90", "No k reaches PSNR 90 dB"),
        ("max_bytes", "100", "The best within 100 bytes"),
    ],
)
def test_playground_target_chooses_k_as_the_service_does(
    page: Page, caller: Client, kind: str, value: str, said: str
) -> None:
    chosen = caller.encode(CAT, quality=Quality.parse(f"{kind}={value}")).k
    page.select_option("#target-kind", kind)
    page.fill("#target-value", value)
    page.get_by_role("button", name="Find k").click()
    wait_for_k(page, chosen)
    assert page.inner_text("#target-result").startswith(said)
    assert f"{kind}={value}" in page.inner_text("#snippet")


def test_playground_takes_chosen_dropped_and_pasted_images(page: Page, caller: Client) -> None:
    give_file(page, "rocket.jpg", jpeg("rocket"))
    until(page, "document.querySelector('#caption').textContent.includes('rocket.jpg')")
    wait_for_k(page, 64)
    assert saved(page, "Image (.png)")[1] == caller.decode(caller.encode(jpeg("rocket"), 64), "png")
    for event, name in (("drop", "dropped.jpg"), ("paste", "pasted.jpg")):
        page.evaluate(
            """([event, name, bytes]) => {
              const files = new DataTransfer();
              files.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
              const options = {bubbles: true, cancelable: true};
              dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, {...options, clipboardData: files})
                : new DragEvent(event, {...options, dataTransfer: files}));
            }""",
            [event, name, list(jpeg("coffee", 60))],
        )
        until(page, f"document.querySelector('#caption').textContent.includes('{name}')")


def test_playground_shows_whole_images(page: Page, caller: Client) -> None:
    wide = encoded(Image.fromarray(photograph("coffee")), "PNG")
    give_file(page, "wide.png", wide)
    page.evaluate("document.querySelector('.more').open = true")
    page.get_by_text("Whole image", exact=True).click()
    until(page, "document.querySelector('#canvas-decoded').height < 100")
    tokens = caller.encode(wide, 64, fit="pad")
    assert saved(page, "Image (.png)")[1] == caller.decode(tokens, "png")
    seen = canvas(page, "#canvas-seen")
    left, top, right, bottom = content_box(600, 400, SIZE)
    theirs = imaging.prepare(wide, SIZE, fit="pad")[top:bottom, left:right]
    assert np.abs(seen.astype(int) - theirs).max() <= 1
    until(page, "location.hash.includes('fit=pad')")
    assert 'fit="pad"' in page.inner_text("#snippet")


def test_playground_saves_and_opens_token_files(page: Page, caller: Client) -> None:
    set_range(page, "#k", 40)
    wait_for_k(page, 40)
    name, content = saved(page, "Tokens (.ctok)")
    assert name == "cat.ctok"
    assert content == caller.encode(CAT, 40).to_bytes()
    shorter = Tokens.from_bytes(content).prefix(9)
    give_file(page, "nine.ctok", shorter.to_bytes())
    wait_for_k(page, 9)
    assert np.array_equal(canvas(page, "#canvas-decoded"), pixels(caller.decode(shorter, "png")))
    assert page.get_attribute("#k", "max") == "9"
    assert page.inner_text("#figure-ssim") == "–"
    give_file(page, "cut.ctok", content[:-1])
    page.wait_for_selector("#problem:visible")
    assert "40 tokens take 96 bytes; this file has 95" in page.inner_text("#problem")


def test_playground_words_errors_as_the_service_does(
    browser: Browser, site: Service, visit: Visit
) -> None:
    with visited(browser, site, visit, expected="status of 4") as page:
        wait_for_k(page, 64)
        give_file(page, "notes.txt", b"no image at all")
        page.wait_for_selector("#problem:visible")
        headers = {"Authorization": f"Bearer {visit.token}"} if visit.token else {}
        reply = page.request.post(
            f"{site.rest}/v1/encode", data=b"no image at all", headers=headers
        )
        problem = reply.json()
        assert page.inner_text("#problem").startswith(f"{problem['title']}. {problem['detail']}")
        page.get_by_role("button", name="Dismiss this message").click()
        assert page.locator("#problem").is_hidden()


def test_playground_address_holds_the_state(
    page: Page, browser: Browser, site: Service, visit: Visit
) -> None:
    give_file(page, "rocket.jpg", jpeg("rocket"))
    until(page, "location.hash.includes('name=rocket.jpg')")
    set_range(page, "#k", 33)
    wait_for_k(page, 33)
    until(page, "location.hash.includes('k=33')")
    address = page.url.removeprefix(f"{site.rest}/")
    with visited(browser, site, visit, address) as other:  # which has never had the image
        wait_for_k(other, 33)
        assert np.array_equal(canvas(other, "#canvas-decoded"), canvas(page, "#canvas-decoded"))
        other.evaluate("location.hash = 'image=coffee&k=12&target=max_bytes=24'")
        wait_for_k(other, 12)
        until(other, "document.querySelector('#caption').textContent.includes('coffee')")
        assert "max_bytes=24" in other.inner_text("#snippet")
    other_state = "#image=cat&k=64&mix=rocket&s=40&generate=" + quote('{"class":"dog","k":9}')
    with visited(browser, site, visit, other_state) as other:
        wait_for_k(other, 64)
        other.locator("#mix").scroll_into_view_if_needed()
        other.wait_for_selector('#mix-canvas[data-s="40"]')
        assert other.input_value("#mix-choice") == "rocket"
        assert (other.input_value("#class"), other.input_value("#generate-k")) == ("dog", "9")
