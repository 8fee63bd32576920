"""The playground in a real Chromium, against the real service: every part, by its controls."""

import io
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from channeltok import Client, Generated, GenerateParams, Quality, Tokens
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

import imaging
from imaging.fit import content_box
from imaging.similarity import psnr, ssim
from service.rest.pages import WEB
from tests.support.browser import AXE, DESKTOP, PHONE, chromium, opened, serious_findings, until
from tests.support.chromium import CHROMIUM
from tests.support.photographs import encoded, jpeg, photograph
from tests.support.running import ROOT, Service, running
from tests.support.sketch_generator import repository

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

SAMPLES = WEB / "playground/samples"
CAT = (SAMPLES / "cat.webp").read_bytes()
COFFEE = (SAMPLES / "coffee.webp").read_bytes()
TOKEN = "a-token-of-the-playground-tests"
SIZE = 128


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the demo tokenizer and a generator."""
    made = repository.write(tmp_path_factory.mktemp("generator"), pause=0.002)
    with running(model_repository=str(made.models), max_generations="2") as service:
        yield service
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


@pytest.fixture(scope="module")
def caller(site: Service) -> Iterator[Client]:
    with Client(site.grpc, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Service) -> Iterator[Page]:
    with opened(browser, f"{site.rest}/#image=cat&k=64") as started:
        wait_for_k(started, 64)
        yield started


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


# The image and k


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


# Images and tokens of one's own


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


def test_playground_words_errors_as_the_service_does(browser: Browser, site: Service) -> None:
    with opened(browser, f"{site.rest}/", expected="status of 4") as page:
        wait_for_k(page, 64)
        give_file(page, "notes.txt", b"no image at all")
        page.wait_for_selector("#problem:visible")
        problem = page.request.post(f"{site.rest}/v1/encode", data=b"no image at all").json()
        assert page.inner_text("#problem").startswith(f"{problem['title']}. {problem['detail']}")
        page.get_by_role("button", name="Dismiss this message").click()
        assert page.locator("#problem").is_hidden()


def test_playground_address_holds_the_state(page: Page, browser: Browser, site: Service) -> None:
    give_file(page, "rocket.jpg", jpeg("rocket"))
    until(page, "location.hash.includes('name=rocket.jpg')")
    set_range(page, "#k", 33)
    wait_for_k(page, 33)
    until(page, "location.hash.includes('k=33')")
    with opened(browser, page.url) as other:  # a browser that has never had the image
        wait_for_k(other, 33)
        assert np.array_equal(canvas(other, "#canvas-decoded"), canvas(page, "#canvas-decoded"))
        other.evaluate("location.hash = 'image=coffee&k=12&target=max_bytes=24'")
        wait_for_k(other, 12)
        until(other, "document.querySelector('#caption').textContent.includes('coffee')")
        assert "max_bytes=24" in other.inner_text("#snippet")
    other_state = "#image=cat&k=64&mix=rocket&s=40&generate=" + quote('{"class":"dog","k":9}')
    with opened(browser, f"{site.rest}/{other_state}") as other:
        wait_for_k(other, 64)
        other.locator("#mix").scroll_into_view_if_needed()
        other.wait_for_selector('#mix-canvas[data-s="40"]')
        assert other.input_value("#mix-choice") == "rocket"
        assert (other.input_value("#class"), other.input_value("#generate-k")) == ("dog", "9")


# Beside other codecs, as a film, mixed, generated


def test_playground_compares_codecs_within_the_same_bytes(page: Page) -> None:
    def compared(k: int) -> dict[str, str]:
        set_range(page, "#k", k)
        page.locator("#codecs").scroll_into_view_if_needed()
        until(page, f"document.querySelector('#verdict').textContent.includes(' {2 * k} bytes')")
        figures = page.locator("#versus figure").all()
        return {one.locator("strong").inner_text().split()[0]: one.inner_text() for one in figures}

    few = compared(64)
    assert list(few) == ["Original", "Tokens", "WebP", "JPEG", "AVIF"]
    assert "Does not fit: the smallest JPEG" in few["JPEG"]
    assert "cannot write AVIF" in few["AVIF"]  # Chromium's canvas makes none
    many = compared(256)
    measured = {}
    for name in ("Tokens", "WebP"):
        text = re.search(r"(\d+) bytes\s+SSIM ([\d.]+), [\d.]+ dB", many[name])
        assert text is not None, many[name]
        assert int(text[1]) <= 512
        measured[name] = float(text[2])
    winner = max(measured, key=lambda name: measured[name])
    assert [name for name, text in many.items() if "closest" in text] == [winner]
    assert f"{measured[winner]:.3f} against" in page.inner_text("#verdict")


def test_playground_plays_the_tokens_as_a_film(page: Page, caller: Client) -> None:
    short = caller.encode(COFFEE, 12)
    give_file(page, "short.ctok", short.to_bytes())
    wait_for_k(page, 12)
    page.evaluate(
        """() => {
          window.played = [];
          new MutationObserver(() => played.push(
            Number(document.querySelector("#canvas-decoded").dataset.k)
          )).observe(document.querySelector("#canvas-decoded"), {attributeFilter: ["data-k"]});
        }"""
    )
    page.get_by_role("button", name="Play k = 1 to 12").click()
    until(page, "played.at(-1) === 12")
    assert page.evaluate("played") == list(range(1, 13))
    page.get_by_role("button", name="Play k = 1 to 12").wait_for()
    page.get_by_role("button", name="k = 4", exact=True).click()
    wait_for_k(page, 4)
    assert np.array_equal(
        canvas(page, "#strip [aria-pressed=true] canvas"),
        pixels(caller.decode(short.prefix(4), "png")),
    )


def test_playground_mixes_two_images(page: Page, caller: Client) -> None:
    page.locator("#mix").scroll_into_view_if_needed()
    page.wait_for_selector('#mix-canvas[data-s="128"]')
    set_range(page, "#mix-slider", 100)
    page.wait_for_selector('#mix-canvas[data-s="100"]')
    first, second = caller.encode(CAT), caller.encode(COFFEE)
    mixed = Tokens([*first.ids[:100], *second.ids[100:]], first.fingerprint)
    assert np.array_equal(canvas(page, "#mix-canvas"), pixels(caller.decode(mixed, "png")))
    assert np.array_equal(canvas(page, "#mix-second"), pixels(caller.decode(second, "png")))
    give_file(page, "rocket.jpg", jpeg("rocket"), "#mix-file")
    other = pixels(caller.decode(caller.encode(jpeg("rocket")), "png")).ravel().tolist()
    until(
        page,
        """other => {
          const canvas = document.querySelector("#mix-second");
          const {data} = canvas.getContext("2d").getImageData(0, 0, 128, 128);
          return [...data].filter((_, at) => at % 4 < 3).every((value, at) => value === other[at]);
        }""",
        other,
    )


def test_playground_generates_with_previews(page: Page, caller: Client) -> None:
    page.locator("#generate").scroll_into_view_if_needed()
    page.select_option("#class", "dog")
    for field, value in (("generate-k", "48"), ("seed", "7"), ("temperature", "0.5")):
        page.fill(f"#{field}", value)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("48 tokens, seed 7.").wait_for()
    captions = page.locator("#previews figcaption").all_inner_texts()
    assert captions == [f"k = {k}" for k in (4, 6, 8, 12, 16, 24, 32, 48)]
    params = GenerateParams(class_name="dog", k=48, seed=7, temperature=0.5)
    (made,) = (event for event in caller.generate(params) if isinstance(event, Generated))
    assert np.array_equal(
        canvas(page, "#generate-canvas"), pixels(caller.decode(made.tokens, "png"))
    )
    page.check("#go-on")
    page.fill("#generate-k", "80")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("80 tokens, seed 7.").wait_for()
    page.get_by_role("button", name="Look at it above").click()
    wait_for_k(page, 64)
    assert page.get_attribute("#k", "max") == "80"
    page.evaluate("document.querySelector('.more').open = true")
    page.evaluate("document.querySelector('.ids').open = true")
    prefix = caller.encode(CAT, 64).ids.tolist()
    assert [int(text) for text in page.inner_text("#ids").split()][:64] == prefix


# The same call as text


@pytest.mark.parametrize("language", ["Python", "curl", "Command line"])
def test_playground_examples_run_as_they_are(
    page: Page, caller: Client, tmp_path: Path, language: str
) -> None:
    page.get_by_role("radiogroup", name="Language").get_by_text(language, exact=True).click()
    text = page.inner_text("#snippet")
    (tmp_path / "cat.webp").write_bytes(CAT)
    command = [sys.executable, "-c", text] if language == "Python" else ["sh", "-ec", text]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}/client",
    }
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    expected = caller.decode(caller.encode(CAT, 64), "png")
    assert (tmp_path / "cat.png").read_bytes() == expected


def test_playground_examples_of_generate_run_as_they_are(page: Page, tmp_path: Path) -> None:
    page.fill("#seed", "3")
    page.fill("#generate-k", "16")
    page.select_option("#call-kind", "generate")
    text = page.inner_text("#snippet")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/client"}
    command = [sys.executable, "-c", text]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "generated.png").read_bytes().startswith(b"\x89PNG")


# Formulas, as in Python


def image_data(array: NDArray[np.uint8]) -> dict[str, Any]:
    height, width = array.shape[:2]
    opaque = np.dstack([array, np.full((height, width), 255, np.uint8)])
    return {"data": b64encode(opaque).decode(), "width": width, "height": height}


# Pixels travel in base64: the browser takes a minute for a list of a million numbers.
IMAGE_DATA = """
  const toImage = ({data, width, height}) => new ImageData(
    Uint8ClampedArray.from(atob(data), letter => letter.charCodeAt(0)), width, height);
"""


def test_playground_measures_quality_as_the_service_does(page: Page) -> None:
    random = np.random.default_rng(0)
    photo = imaging.prepare(jpeg(), SIZE)
    for other in (
        random.integers(0, 256, photo.shape, np.uint8),
        np.clip(photo + random.normal(0, 9, photo.shape), 0, 255).astype(np.uint8),
        photo,
    ):
        for rows in (slice(None), slice(40, 88)):
            a, b = photo[rows], other[rows]
            found = page.evaluate(
                f"""async ([a, b]) => {{
                  {IMAGE_DATA}
                  const {{psnr, ssim}} = await import("./playground/quality.js");
                  return [ssim(toImage(a), toImage(b)), psnr(toImage(a), toImage(b))];
                }}""",
                [image_data(a), image_data(b)],
            )
            assert found[0] == pytest.approx(float(ssim(a[None], b[None])[0]), abs=1e-9)
            assert found[1] == pytest.approx(float(psnr(a[None], b[None])[0]), abs=1e-9)


@pytest.mark.parametrize("size", [(128, 128), (200, 131), (400, 300), (300, 1000), (100, 60)])
def test_playground_sees_what_the_tokenizer_sees(page: Page, size: tuple[int, int]) -> None:
    photo = Image.fromarray(photograph("astronaut")).resize(size)
    file = encoded(photo, "PNG")
    view = imaging.open_image(file).view()
    found = page.evaluate(
        f"""async ([image, box]) => {{
          {IMAGE_DATA}
          const {{resize}} = await import("./playground/resize.js");
          return [...resize(toImage(image), box, {SIZE}, {SIZE}).data];
        }}""",
        [image_data(np.asarray(photo)), list(view.box)],
    )
    ours = np.array(found, np.int16).reshape(SIZE, SIZE, 4)[..., :3]
    assert np.abs(ours - imaging.prepare(file, SIZE)).max() <= 1


# For everyone


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci in tests/web")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_playground_is_accessible(
    browser: Browser, site: Service, viewport: dict[str, int], scheme: str
) -> None:
    with opened(browser, f"{site.rest}/", viewport=viewport, color_scheme=scheme) as page:
        wait_for_k(page, 64)
        page.locator("#codecs").scroll_into_view_if_needed()
        until(page, "document.querySelector('#verdict').textContent.includes('bytes')")
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert serious_findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_playground_theme_follows_the_system_until_switched(
    browser: Browser, site: Service
) -> None:
    def is_dark() -> bool:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 150

    with opened(browser, f"{site.rest}/", color_scheme="dark") as page:
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


# With tokens, and switched off


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that asks for a token."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with running(bearer_token_file=str(file)) as service:
        yield service


def test_playground_asks_for_a_token_where_the_service_does(
    browser: Browser, closed: Service
) -> None:
    with opened(browser, f"{closed.rest}/#image=coffee&k=20", expected="status of 401") as page:
        page.wait_for_selector("#access:visible")
        assert page.evaluate("document.activeElement.id") == "access-token"
        page.fill("#access-token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#access:visible")
        page.fill("#access-token", TOKEN)
        page.keyboard.press("Enter")
        wait_for_k(page, 20)
        assert page.locator("#access").is_hidden()
        assert page.locator("#generate").is_hidden()  # no generator is served
        stored = page.evaluate("[{...localStorage}, {...sessionStorage}]")
        assert TOKEN not in json.dumps(stored[0])
        assert TOKEN in json.dumps(stored[1])
        assert TOKEN not in page.url
        assert TOKEN not in page.inner_text("#snippet")
        assert "CHANNELTOK_BEARER_TOKEN" in page.inner_text("#snippet")
        page.reload()
        wait_for_k(page, 20)


def test_playground_can_be_switched_off() -> None:
    with running(page="false") as service:
        for path in ("/", "/playground/main.js", "/shared/style.css", "/live", "/live/live.js"):
            assert httpx.get(service.rest + path).status_code == 404
        assert httpx.get(f"{service.rest}/v1/tokenizers").status_code == 200
