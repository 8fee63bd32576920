"""Engines that run in this process, on several threads."""

import io
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from channeltok import Client, Tokenizer, Tokens
from channeltok.fit import Fit
from PIL import Image

from tests.support.photographs import crops, encoded, photograph
from tests.support.running import ROOT, Service, running


def test_threads_that_start_together_do_not_deadlock() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.two_threads"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "64\n"


@pytest.fixture(scope="module")
def in_f32() -> Iterator[Service]:
    """A service with the engine that a Tokenizer has by default."""
    with running(engine="onnxruntime") as started:
        yield started


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_tokenizer_has_the_tokens_and_pixels_of_the_service(
    in_f32: Service, count: int, fit: Fit
) -> None:
    photos = list(crops(count, seed=5))
    with Tokenizer.from_pretrained("demo") as tokenizer, Client(in_f32.grpc) as client:
        tokens: list[Tokens] = tokenizer.encode(photos, fit=fit)
        served = list(client.encode_stream(photos, fit=fit))
        assert tokens == served
        assert [one.view for one in tokens] == [one.view for one in served]
        for number, k in ((0, 256), (1, 64), (2, 1)):
            image = client.decode(tokens[number].prefix(k), "png")
            pixels = np.asarray(Image.open(io.BytesIO(image)))
            assert (tokenizer.decode(tokens[number], k).as_numpy() == pixels).all()


def test_tokenizer_has_the_tokens_of_the_service_for_ready_pixels(in_f32: Service) -> None:
    pixels = np.ascontiguousarray(photograph("coffee")[100:228, 200:328])
    with Tokenizer.from_pretrained("demo") as tokenizer, Client(in_f32.grpc) as client:
        assert tokenizer.encode(pixels) == client.encode(encoded(Image.fromarray(pixels), "PNG"))
