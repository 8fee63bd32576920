import pytest

from service.errors import NotAcceptable
from service.rest.negotiation import negotiate

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
