"""The parts below: other codecs, the film, mixing, generating, and the same call as text."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from channeltok import Client, Generated, GenerateParams, Tokens
from playwright.sync_api import Page

from tests.support.browser import until
from tests.support.photographs import jpeg
from tests.support.playground import (
    CAT,
    COFFEE,
    Visit,
    canvas,
    environment,
    give_file,
    pixels,
    set_range,
    wait_for_k,
)


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
    for field, value in (
        ("generate-k", "48"),
        ("seed", "7"),
        ("temperature", "0.5"),
        ("guidance", "3"),
    ):
        page.fill(f"#{field}", value)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("48 tokens, seed 7.").wait_for()
    captions = page.locator("#previews figcaption").all_inner_texts()
    assert captions == [f"k = {k}" for k in (4, 6, 8, 12, 16, 24, 32, 48)]
    params = GenerateParams(class_name="dog", k=48, seed=7, temperature=0.5, guidance=3)
    (made,) = (event for event in caller.generate(params) if isinstance(event, Generated))
    assert np.array_equal(
        canvas(page, "#generate-canvas"), pixels(caller.decode(made.tokens, "png"))
    )
    page.check("#go-on")
    page.fill("#generate-k", "80")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("80 tokens, seed 7.").wait_for()
    page.get_by_role("button", name="Look at it above").click()
    until(page, "document.querySelector('#k').max === '80'")
    page.evaluate("document.querySelector('.more').open = true")
    page.evaluate("document.querySelector('.ids').open = true")
    prefix = caller.encode(CAT, 64).ids.tolist()
    assert [int(text) for text in page.inner_text("#ids").split()][:64] == prefix


@pytest.mark.parametrize("language", ["Python", "curl", "Command line"])
def test_playground_examples_run_as_they_are(
    page: Page, caller: Client, visit: Visit, tmp_path: Path, language: str
) -> None:
    page.get_by_role("radiogroup", name="Language").get_by_text(language, exact=True).click()
    text = page.inner_text("#snippet").replace("TOKEN=...", f"TOKEN={visit.token}")
    (tmp_path / "cat.webp").write_bytes(CAT)
    command = [sys.executable, "-c", text] if language == "Python" else ["sh", "-ec", text]
    subprocess.run(command, cwd=tmp_path, env=environment(visit), check=True, timeout=60)
    expected = caller.decode(caller.encode(CAT, 64), "png")
    assert (tmp_path / "cat.png").read_bytes() == expected


def test_playground_examples_of_generate_run_as_they_are(
    page: Page, visit: Visit, tmp_path: Path
) -> None:
    page.fill("#seed", "3")
    page.fill("#generate-k", "16")
    page.select_option("#call-kind", "generate")
    text = page.inner_text("#snippet")
    command = [sys.executable, "-c", text]
    subprocess.run(command, cwd=tmp_path, env=environment(visit), check=True, timeout=60)
    assert (tmp_path / "generated.png").read_bytes().startswith(b"\x89PNG")
