"""fit and aspect: what the clients check, send and read."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from channeltok import ImageView, InternalError, InvalidInput, Tokens
from channeltok.fit import MAX_SIDE, check_aspect, check_fit, parse_aspect

from imaging import image_file
from tests.support.faulty_service import FINGERPRINT, tokens_of

WIDE = ImageView(300, 100, 0, 0, 300, 100)
CENTRE = ImageView(301, 100, 100.5, 0, 200.5, 100)


def test_parse_aspect_reads_width_before_height() -> None:
    assert parse_aspect("3:1") == (3, 1)
    assert parse_aspect(f"1920:{MAX_SIDE}") == (1920, MAX_SIDE)


@pytest.mark.parametrize(
    "text",
    [
        *["", "3", "3:", ":1", "3/1", "3x1", "0:1", "1:0", "-3:1", "3.5:1", "1e3:1", " 3:1"],
        *["3:1:1", "3:1\n", "nan:1", "\N{ARABIC-INDIC DIGIT THREE}:1", "1000001:1"],
        "1:" + 9999 * "9",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_parse_aspect_refuses_anything_else(text: str) -> None:
    with pytest.raises(InvalidInput, match="two whole numbers from 1 to 1,000,000") as caught:
        parse_aspect(text)
    assert caught.value.code == "BAD_REQUEST"
    assert len(caught.value.message) < 150


@pytest.mark.parametrize(
    "aspect",
    [
        (0, 1),
        (1, 0),
        (-3, 1),
        (1_000_001, 1),
        (10**30, 1),
        (1.5, 1),
        ("3", 1),
        (3,),
        (3, 1, 1),
        3,
        (),
    ],
)
def test_check_aspect_refuses_what_cannot_be_sent(aspect: Any) -> None:
    with pytest.raises(InvalidInput, match="two whole numbers") as caught:
        check_aspect(aspect)
    assert caught.value.code == "BAD_REQUEST"


def test_check_fit_names_the_choices() -> None:
    assert [check_fit(fit) for fit in ("crop", "pad")] == ["crop", "pad"]
    with pytest.raises(InvalidInput, match="one of crop, pad, not 'stretch'"):
        check_fit("stretch")


def test_tokens_keep_their_view_outside_bytes_and_comparison() -> None:
    tokens = Tokens([1, 2, 3], FINGERPRINT, view=WIDE)
    plain = Tokens([1, 2, 3], FINGERPRINT)
    assert (tokens.aspect, plain.aspect) == ((300, 100), None)
    assert tokens == plain == Tokens([1, 2, 3], FINGERPRINT, view=CENTRE)
    assert hash(tokens) == hash(plain)
    assert tokens.to_bytes() == plain.to_bytes()
    assert tokens.prefix(2).view == WIDE
    assert Tokens.from_bytes(tokens.to_bytes()).view is None


def test_max_side_is_that_of_imaging() -> None:
    assert MAX_SIDE == image_file.MAX_SIDE


def test_aspect_of_a_crop_is_square() -> None:
    assert CENTRE.aspect == (100, 100)


def test_encode_returns_what_the_service_saw(client: Any) -> None:
    image = b"abcdefg"  # the faulty service takes it for an image of 7 x 1 pixels
    assert client.encode(image).view == ImageView(7, 1, 3, 0, 4, 1)
    assert client.encode(image, fit="pad").view == ImageView(7, 1, 0, 0, 7, 1)
    (tokens,) = client.encode_stream([image], fit="pad")
    assert tokens.view == ImageView(7, 1, 0, 0, 7, 1)


def test_encode_refuses_an_unknown_fit_before_sending(client: Any) -> None:
    for call in (client.encode, lambda image, fit: client.encode_stream([image], fit=fit)):
        with pytest.raises(InvalidInput, match="one of crop, pad"):
            call(b"abc", fit="stretch")


def test_a_service_that_ignores_fit_is_an_error(client: Any) -> None:
    assert client.encode(b"old").view is None
    with pytest.raises(InternalError, match="older than this client"):
        client.encode(b"old", fit="pad")
    bad, good = client.encode_stream([b"old", b"new"], fit="pad")
    assert isinstance(bad, InternalError)
    assert good == tokens_of(b"new")


def test_decode_asks_for_the_aspect_of_the_tokens_unless_given_another(client: Any) -> None:
    tokens = replace(tokens_of(b"abc"), view=WIDE)
    assert client.decode(tokens) == b"png 300:100:abc"
    assert client.decode(tokens, aspect=(2, 1)) == b"png 2:1:abc"
    assert client.decode(tokens, aspect=(1, 1)) == b"png:abc"
    assert client.decode(tokens.to_bytes()) == b"png:abc"
    assert client.decode(tokens.to_bytes(), aspect=(3, 1)) == b"png 3:1:abc"
    cropped = replace(tokens, view=CENTRE)
    assert client.decode(cropped) == b"png:abc"


def test_decode_stream_takes_an_aspect_for_each_item_or_for_all(client: Any) -> None:
    views = [WIDE, None, ImageView(5, 9, 0, 0, 5, 9), CENTRE]
    tokens = [replace(tokens_of(b"abc"), view=view) for view in views]
    each = [b"png 300:100:abc", b"png:abc", b"png 5:9:abc", b"png:abc"]
    assert list(client.decode_stream(tokens)) == each
    assert list(client.decode_stream(tokens, aspect=(4, 3))) == 4 * [b"png 4:3:abc"]
    assert list(client.decode_stream(tokens, aspect=(1, 1))) == 4 * [b"png:abc"]


def test_decode_refuses_a_bad_aspect_before_sending(client: Any) -> None:
    tokens = tokens_of(b"abc")
    calls: list[Callable[[], Any]] = [
        lambda: client.decode(tokens, aspect=(0, 1)),
        lambda: client.decode_stream([tokens], aspect=(1_000_001, 1)),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="two whole numbers"):
            call()
