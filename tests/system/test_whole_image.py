"""Images that are not square, encoded whole and decoded to their own shape, in every interface."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from channeltok import ChannelTokError, Client, ImageView, Quality, Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from PIL import Image

import imaging
from tests.support.bad_input import assert_problem
from tests.support.photographs import encoded, photograph
from tests.support.running import Service

JPEG = {"Content-Type": "image/jpeg"}
OCTETS = "application/octet-stream"
PHOTO = Image.fromarray(photograph("coffee")[150:350])  # 600 x 200
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
# File, its upright size, the size it decodes to.
IMAGES = {
    "3:1": (encoded(PHOTO, "JPEG", quality=95), (600, 200), (128, 43)),
    "1:3, turned by EXIF": (
        encoded(PHOTO, "JPEG", quality=95, exif=SIDEWAYS),
        (200, 600),
        (43, 128),
    ),
    "square": (encoded(PHOTO.crop((0, 0, 200, 200)), "PNG"), (200, 200), (128, 128)),
    "a line": (encoded(PHOTO.crop((0, 9, 600, 10)), "PNG"), (600, 1), (128, 1)),
}
WIDE = IMAGES["3:1"][0]


@pytest.fixture(autouse=True)
def unharmed(service: Service) -> Iterator[None]:
    """No test leaves an exception in the log."""
    yield
    assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


def _pixels(image: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def _size(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


def _assert_shows(image: bytes, original: Image.Image) -> None:
    """The decoded image has the shape of the original within a pixel, and resembles it."""
    pixels = _pixels(image).astype(float)
    height, width = pixels.shape[:2]
    assert abs(height - width * original.height / original.width) <= 1
    right = np.asarray(original.resize((width, height))).astype(float)
    assert np.square(pixels - right).mean() < 0.5 * np.square(right - right.mean()).mean()


@pytest.mark.parametrize("name", IMAGES)
def test_pad_shows_all_of_an_image_over_both_protocols(
    client: Client, rest: httpx.Client, name: str
) -> None:
    image, (width, height), decoded = IMAGES[name]
    tokens = client.encode(image, fit="pad")
    assert tokens.view == ImageView(width, height, 0, 0, width, height)
    back = client.decode(tokens)
    assert _size(back) == decoded
    assert client.decode(tokens.to_bytes(), aspect=(width, height)) == back
    reply = rest.post("/v1/encode?fit=pad", content=image, headers={"Content-Type": OCTETS})
    document = reply.raise_for_status().json()
    assert document["tokens"] == tokens.ids.tolist()
    assert document["view"] == {
        "width": width, "height": height, "left": 0, "top": 0, "right": width, "bottom": height
    }  # fmt: skip
    assert rest.post("/v1/decode", json=document).raise_for_status().content == back
    reply = rest.post(
        f"/v1/decode?aspect={width}:{height}",
        content=tokens.to_bytes(),
        headers={"Content-Type": OCTETS},
    )
    assert reply.raise_for_status().content == back


def test_pad_decodes_to_the_photo(client: Client) -> None:
    _assert_shows(client.decode(client.encode(WIDE, fit="pad")), PHOTO)
    upright = PHOTO.rotate(-90, expand=True)
    turned = client.encode(IMAGES["1:3, turned by EXIF"][0], fit="pad")
    _assert_shows(client.decode(turned), upright)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_every_format_is_without_bands(client: Client, format: str) -> None:
    tokens = client.encode(WIDE, 64, fit="pad")
    assert _size(client.decode(tokens, format)) == (128, 43)  # type: ignore[arg-type]


def test_decode_gives_the_square_without_an_aspect(client: Client) -> None:
    tokens = client.encode(WIDE, fit="pad")
    square = client.decode(tokens.to_bytes())
    assert _size(square) == (128, 128)
    assert client.decode(tokens, aspect=(1, 1)) == square
    content = imaging.crop_to_aspect(_pixels(square), 3, 1)
    assert np.array_equal(content, _pixels(client.decode(tokens)))


def test_crop_is_the_default_and_says_what_it_left_out(client: Client, rest: httpx.Client) -> None:
    tokens = client.encode(WIDE)
    assert tokens == client.encode(WIDE, fit="crop") != client.encode(WIDE, fit="pad")
    assert tokens.view == ImageView(600, 200, 200, 0, 400, 200)
    assert _size(client.decode(tokens)) == (128, 128)
    replies = [
        rest.post(path, content=WIDE, headers={**JPEG, "Accept": OCTETS}).raise_for_status()
        for path in ("/v1/encode", "/v1/encode?fit=crop", "/v1/encode?fit=pad")
    ]
    assert [reply.headers["ChannelTok-View"] for reply in replies] == [
        *2 * ["width=600, height=200, left=200.0, top=0.0, right=400.0, bottom=200.0"],
        "width=600, height=200, left=0.0, top=0.0, right=600.0, bottom=200.0",
    ]
    assert Tokens.from_bytes(replies[0].content) == tokens


def test_streams_give_each_item_its_own_shape(client: Client) -> None:
    files = [image for image, _, _ in IMAGES.values()]
    tokens = list(client.encode_stream([files[0], b"no image", *files[1:]], fit="pad"))
    assert isinstance(tokens.pop(1), ChannelTokError)
    whole = [one for one in tokens if isinstance(one, Tokens)]
    assert [one.view for one in whole] == [client.encode(file, fit="pad").view for file in files]
    images = [image for image in client.decode_stream(whole) if isinstance(image, bytes)]
    assert [_size(image) for image in images] == [decoded for _, _, decoded in IMAGES.values()]
    squares = [
        image
        for image in client.decode_stream(whole, aspect=(1, 1))
        if not isinstance(image, ChannelTokError)
    ]
    assert [_size(image) for image in squares] == 4 * [(128, 128)]


def test_quality_is_that_of_the_content(client: Client) -> None:
    tokens = client.encode(WIDE, quality=Quality(max_bytes=128), fit="pad")
    chosen = tokens.curve[-1]
    square = _pixels(client.decode(tokens, aspect=(1, 1))).astype(float)
    seen = imaging.prepare(WIDE, 128, fit="pad")
    inside = [imaging.crop_to_aspect(image, 3, 1) for image in (square, seen)]  # type: ignore[type-var]
    error = np.square(inside[0] - inside[1]).mean()
    assert chosen.k == tokens.k == 64
    assert chosen.psnr == pytest.approx(10 * np.log10(255**2 / error), abs=0.1)


def test_the_command_line(service: Service, client: Client, tmp_path: Path) -> None:
    photo, packed, back = tmp_path / "photo.jpg", tmp_path / "photo.ctok", tmp_path / "back.png"
    photo.write_bytes(WIDE)

    def channeltok(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("channeltok"), *arguments]
        return subprocess.run(
            [*command, "--server", service.grpc], capture_output=True, text=True, timeout=60
        )

    encode = channeltok("encode", str(photo), "--fit", "pad")
    assert encode.stdout.endswith("; decode with --aspect 600:200\n")
    assert packed.read_bytes() == client.encode(WIDE, fit="pad").to_bytes()
    assert channeltok("decode", str(packed), "-o", str(back), "--aspect", "3:1").returncode == 0
    assert back.read_bytes() == client.decode(packed.read_bytes(), aspect=(600, 200))
    assert _size(back.read_bytes()) == (128, 43)
    wrong = channeltok("decode", str(packed), "--aspect", "0:1")
    assert (wrong.returncode, "two whole numbers from 1" in wrong.stderr) == (2, True)
    assert "aspect" not in channeltok("encode", str(photo)).stdout


@pytest.mark.parametrize("fit", ["", "PAD", "stretch", "crop,pad", "0"])
def test_an_unknown_fit_over_rest(rest: httpx.Client, fit: str) -> None:
    reply = rest.post("/v1/encode", params={"fit": fit}, content=WIDE, headers=JPEG)
    assert_problem(reply, 400, "BAD_REQUEST")
    assert "one of crop, pad" in reply.json()["detail"]


@pytest.mark.parametrize("aspect", ["", "0:1", "1:0", "-3:1", "3x1", "1.5:1", "1000001:1"])
def test_a_bad_aspect_over_rest(rest: httpx.Client, client: Client, aspect: str) -> None:
    tokens = client.encode(WIDE, 8).to_bytes()
    headers = {"Content-Type": OCTETS}
    reply = rest.post("/v1/decode", params={"aspect": aspect}, content=tokens, headers=headers)
    assert_problem(reply, 400, "BAD_REQUEST")
    assert "two whole numbers from 1 to 1,000,000" in reply.json()["detail"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"width": 1.5},
        {"height": 1_000_001},
        {"right": "600"},
        {"left": 1e308},
        {"left": 600},
        {"bottom": -1},
        {"bottom": None},
    ],
    ids=str,
)
def test_a_bad_view_over_rest(rest: httpx.Client, wrong: dict[str, object]) -> None:
    document = rest.post("/v1/encode?k=8&fit=pad", content=WIDE, headers=JPEG).json()
    for view in ({**document["view"], **wrong}, [600, 200], "600:200", {}):
        reply = rest.post("/v1/decode", json={**document, "view": view})
        assert_problem(reply, 400, "BAD_REQUEST")
    reply = rest.post("/v1/decode", json={**document, "view": None})
    assert _size(reply.raise_for_status().content) == (128, 128)


def test_unknown_fits_and_bad_aspects_over_grpc(service: Service, client: Client) -> None:
    tokens = client.encode(WIDE, 8).to_bytes()
    with grpc.insecure_channel(service.grpc) as channel:
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        with pytest.raises(grpc.RpcError, match="fit 7 is unknown; 1 is crop, 2 pad") as caught:
            stub.Encode(pb.EncodeRequest(image=WIDE, fit=7))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        flat = pb.DecodeRequest(tokens=tokens, aspect=pb.AspectRatio(width=3))
        absurd = pb.DecodeRequest(tokens=tokens, aspect=pb.AspectRatio(width=1, height=2**32 - 1))
        for bad in (flat, absurd):
            with pytest.raises(grpc.RpcError, match="two whole numbers from 1") as caught:
                stub.Decode(bad)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        largest = pb.AspectRatio(width=1, height=1_000_000)
        image = stub.Decode(pb.DecodeRequest(tokens=tokens, aspect=largest)).image
        assert _size(image) == (1, 128)
        good = pb.DecodeRequest(tokens=tokens)
        items = [pb.DecodeStreamRequest(id=n, request=r) for n, r in enumerate([flat, good])]
        replies = {reply.id: reply for reply in stub.DecodeStream(iter(items))}
    assert "two whole numbers" in replies[0].error.message
    assert _size(replies[1].response.image) == (128, 128)
