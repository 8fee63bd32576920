"""What the page computes itself is what Python computes."""

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

import imaging
from imaging.similarity import psnr, ssim
from tests.support.photographs import encoded, jpeg, photograph
from tests.support.playground import SIZE


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
            assert found[0] == pytest.approx(float(ssim(a[None], b[None])[0]), abs=1e-5)
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
