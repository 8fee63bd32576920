import pytest

from imaging import Pixels
from service.errors import BadRequest, NotAcceptable
from service.rest.negotiation import image_in, negotiate

IMAGES = ("image/png", "image/jpeg", "image/webp")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("IMAGE/JPEG", "image/jpeg"),
        ("image/png;q=0.1, image/webp;q=0.9", "image/webp"),
        ("text/html, image/jpeg;q=0.5, */*;q=0.1", "image/jpeg"),
        ("image/png;q=0, */*", "image/jpeg"),
        # What a browser sends.
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "image/webp",
        ),
    ],
)
def test_negotiate_returns_the_preferred_offer(accept: str, expected: str) -> None:
    assert negotiate(accept, IMAGES) == expected


@pytest.mark.parametrize(
    "accept", ["text/html", "image/gif", "image/png;q=0", "", "image/png;q=rubbish"]
)
def test_negotiate_refuses_what_accepts_no_offer(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="image/png, image/jpeg, image/webp"):
        negotiate(accept, IMAGES)


@pytest.mark.parametrize(
    "content_type",
    [
        "image/x-rgb8; width=2; height=1",
        "image/x-rgb8;height=1;width=2",
        'Image/X-RGB8 ;Width="2" ; Height = 1',
    ],
)
def test_image_in_reads_pixels_of_the_size_in_the_content_type(content_type: str) -> None:
    assert image_in(content_type, b"abcdef") == Pixels(2, 1, b"abcdef")


@pytest.mark.parametrize("content_type", ["", "image/png", "image/png; width=2; height=1"])
def test_image_in_takes_other_types_for_files(content_type: str) -> None:
    assert image_in(content_type, b"abcdef") == b"abcdef"


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "; width=2",
        "; width=2; height=",
        "; width=2; height=-1",
        "; width=2; height=1.0",
        "; width=2; height=12345678",
        "; width=2; height=1; height=1",
        "; width=2; height=1; depth=3",
        "; width=2; height=1;",
        "; width=\u0662; height=1",
    ],
)
def test_image_in_refuses_pixels_without_a_size(parameters: str) -> None:
    with pytest.raises(BadRequest, match="sent as image/x-rgb8; width=128; height=128"):
        image_in(f"image/x-rgb8{parameters}", b"abcdef")
