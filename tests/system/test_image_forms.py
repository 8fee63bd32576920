"""Every form of an image has the tokens of the PNG of its pixels, in both clients and over REST."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from channeltok import AsyncClient, Client, Tokens, TooLarge
from channeltok._messages import MAX_RAW_PIXELS
from channeltok.v1 import tokenizer_pb2 as pb
from numpy.typing import NDArray
from PIL import Image

from tests.support.metrics import sample
from tests.support.photographs import encoded, photograph
from tests.support.running import Service

SIDES = ((128, 128), (150, 100), (400, 300), (1100, 960))  # ready; quick; in a worker; as a PNG


def photo(width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(photograph("coffee")).resize((width, height)))


def png(pixels: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG", compress_level=1)


FORMS: dict[str, Callable[[NDArray[np.uint8], Path], Any]] = {
    "array": lambda pixels, _: pixels,
    "floats": lambda pixels, _: (pixels / 255).astype(np.float32),
    "tensor": lambda pixels, _: torch.tensor(pixels).permute(2, 0, 1) / 255,
    "PIL image": lambda pixels, _: Image.fromarray(pixels),
    "path": lambda _, path: path,
    "name": lambda _, path: str(path),
    "file": lambda _, path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("sides", SIDES)
async def test_every_form_has_the_tokens_of_the_png(
    service: Service, client: Client, tmp_path: Path, sides: tuple[int, int]
) -> None:
    assert np.prod(SIDES[-1]) > MAX_RAW_PIXELS
    pixels = photo(*sides)
    path = tmp_path / "photo.png"
    path.write_bytes(png(pixels))
    expected = client.encode(path.read_bytes(), 64)
    forms = list(FORMS)

    def made() -> list[Any]:
        return [FORMS[form](pixels, path) for form in forms]

    async with AsyncClient(service.grpc) as other:
        for form, image, again in zip(forms, made(), made(), strict=True):
            for tokens in (client.encode(image, 64), await other.encode(again, 64)):
                assert tokens == expected, form
                assert tokens.view == expected.view, form
        assert client.encode(made(), 64) == [expected] * len(forms)
        assert await other.encode(np.stack([pixels] * 3), 64) == [expected] * 3
        assert list(client.encode_stream(made(), 64)) == [expected] * len(forms)
        assert [tokens async for tokens in other.encode_stream(made(), 64)] == [expected] * 7
    padded = client.encode(pixels, 64, fit="pad")
    assert padded == client.encode(path, 64, fit="pad")
    assert (padded == expected) == (sides[0] == sides[1])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pil_image_of_any_kind_has_the_tokens_of_its_png(
    client: Client, mode: str, orientation: int
) -> None:
    image = Image.fromarray(photo(300, 200))
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif image.mode != mode:
        image = image.convert(mode)
    image.getexif()[0x0112] = orientation
    same = image.convert("RGB") if mode == "CMYK" else image
    assert client.encode(image) == client.encode(encoded(same, "PNG", exif=image.getexif()))


def test_decoded_image_is_encoded_in_every_form_alike(client: Client) -> None:
    image = client.decode(client.encode(photo(128, 128)))
    expected = client.encode(image)
    for form in (image.as_pil(), image.as_numpy(), image.as_tensor()):
        assert client.encode(form) == expected
    assert image.as_numpy().shape == (128, 128, 3)


def test_pixels_of_the_right_size_need_no_worker(service: Service, client: Client) -> None:
    def decoded() -> float:
        return sample(service, "channeltok_image_decode_seconds_count", lane="light")

    before = decoded()
    client.encode(photo(128, 128))
    client.encode(photo(150, 100))
    assert decoded() == before
    client.encode(photo(400, 300))
    assert decoded() == before + 1


def rgb8(pixels: NDArray[np.uint8]) -> str:
    return f"image/x-rgb8; width={pixels.shape[1]}; height={pixels.shape[0]}"


@pytest.mark.parametrize("sides", SIDES)
def test_rest_takes_pixels(rest: httpx.Client, client: Client, sides: tuple[int, int]) -> None:
    pixels = photo(*sides)
    expected = client.encode(pixels, 32)
    headers = {"Content-Type": rgb8(pixels)}
    reply = rest.post("/v1/encode?k=32", content=pixels.tobytes(), headers=headers)
    document = reply.raise_for_status().json()
    assert Tokens(document["tokens"], document["fingerprint"]) == expected
    files = [
        ("image", ("raw", pixels.tobytes(), rgb8(pixels))),
        ("image", ("file", png(pixels), "image/png")),
        ("image", ("no size", pixels.tobytes(), "image/x-rgb8")),
    ]
    lines = rest.post("/v1/encode:batch?k=32", files=files).raise_for_status().text.splitlines()
    raw, file, refused = (httpx.Response(200, text=line).json() for line in lines)
    assert raw["tokens"] == file["tokens"] == document["tokens"]
    assert raw["view"] == file["view"] == document["view"]
    assert (refused["code"], refused["id"]) == ("BAD_REQUEST", "no size")


@pytest.mark.parametrize(
    ("content_type", "size", "status", "code"),
    [
        ("image/x-rgb8", 12, 400, "BAD_REQUEST"),
        ("image/x-rgb8; width=2; height=two", 12, 400, "BAD_REQUEST"),
        ("image/x-rgb8; width=2; height=2", 11, 422, "BAD_IMAGE"),
        ("image/x-rgb8; width=2; height=2", 0, 422, "BAD_IMAGE"),
        ("image/x-rgb8; width=0; height=2", 0, 422, "BAD_IMAGE"),
        ("image/x-rgb8; width=9999999; height=9999999", 12, 422, "BAD_IMAGE"),
        ("image/x-rgb8; width=2000000; height=1", 6_000_000, 413, "TOO_MANY_PIXELS"),
        ("image/x-rgb8; width=3000; height=2000", 18_000_000, 413, "TOO_LARGE"),
    ],
)
def test_rest_refuses_pixels_that_do_not_fit(
    rest: httpx.Client, content_type: str, size: int, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type}
    reply = rest.post("/v1/encode", content=bytes(size), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_grpc_refuses_pixels_beside_a_file(client: Client) -> None:
    pixels = pb.Pixels(width=1, height=1, rgb=b"abc")
    both = pb.EncodeRequest(image=png(photo(8, 8)), pixels=pixels)
    with pytest.raises(Exception, match="image or pixels, not both"):
        client._stub.Encode(both)


def test_large_pixels_are_refused_at_once(client: Client) -> None:
    """20 MB, more than the service takes: gRPC's core refuses them, without a word on retries."""
    noise = np.random.default_rng(1).integers(0, 256, (2600, 2600, 3), dtype=np.uint8)
    with pytest.raises(TooLarge):
        client.encode(noise)
