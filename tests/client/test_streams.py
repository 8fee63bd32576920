"""encode_stream and decode_stream of both clients: order, limits, errors, and how streams end."""

import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channeltok import (
    ChannelTokError,
    Client,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    Overloaded,
    Tokens,
    TooLarge,
    Unavailable,
    _messages,
)
from channeltok._messages import MAX_MESSAGE_BYTES
from channeltok.images import DecodedImage, encode_png
from PIL import Image

from tests.support.faulty_service import RETRY_AFTER, FaultyService, start, tokens_of

Connect = Callable[..., Any]

IMAGES = [f"image {number}".encode() for number in range(200)]


def test_stream_returns_results_in_the_order_of_the_source(
    client: Any, service: FaultyService
) -> None:
    assert list(client.encode_stream(IMAGES)) == [tokens_of(p) for p in IMAGES]
    assert service.answered != sorted(service.answered), "the service was to answer out of order"
    assert list(client.decode_stream(map(tokens_of, IMAGES), "webp")) == [
        b"webp:" + p for p in IMAGES
    ]
    assert service.answered != sorted(service.answered), "the service was to answer out of order"


@pytest.mark.parametrize("in_flight", [1, 2, 3, 1000])
def test_stream_takes_any_number_in_flight(client: Any, in_flight: int) -> None:
    images = IMAGES[:20]
    assert list(client.encode_stream(images, k=3, in_flight=in_flight)) == [
        tokens_of(p).prefix(3) for p in images
    ]
    tokens = [tokens_of(p).to_bytes() for p in images]
    assert list(client.decode_stream(tokens, in_flight=in_flight)) == [b"png:" + p for p in images]


def test_stream_of_an_empty_source_is_empty(client: Any) -> None:
    assert list(client.encode_stream([])) == []


def test_stream_refuses_bad_arguments_before_sending(client: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(client.encode_stream([b"abc"], in_flight=0))
    with pytest.raises(InvalidInput, match="gif"):
        next(client.decode_stream([tokens_of(b"abc")], "gif"))


def test_encode_stream_yields_the_error_of_a_bad_item_in_its_place(client: Any) -> None:
    images = [
        b"a",
        b"fail:BAD_IMAGE",
        b"b",
        b"garbage",
        b"neither",
        bytes(MAX_MESSAGE_BYTES),
        b"fail:OVERLOADED",
        b"c",
    ]
    a, bad, b, garbage, neither, large, overloaded, c = client.encode_stream(images)
    assert [a, b, c] == [tokens_of(p) for p in (b"a", b"b", b"c")]
    assert (type(bad), bad.code) == (InvalidInput, "BAD_IMAGE")
    assert type(garbage) is InternalError
    assert type(neither) is InternalError
    assert type(large) is TooLarge
    assert (type(overloaded), overloaded.retry_after) == (Overloaded, RETRY_AFTER)


def test_decode_stream_yields_the_error_of_bad_tokens_in_their_place(client: Any) -> None:
    a, bad, foreign, neither, b = client.decode_stream(
        [
            tokens_of(b"a"),
            b"no tokens",
            Tokens([1], "f" * 16),
            tokens_of(b"neither"),
            tokens_of(b"b"),
        ]
    )
    assert [a, b] == [b"png:a", b"png:b"]
    assert [bad.code, foreign.code, neither.code] == [
        "BAD_TOKENS",
        "FINGERPRINT_MISMATCH",
        "INTERNAL",
    ]


def test_stream_of_only_bad_items_ends(client: Any) -> None:
    large = bytes(MAX_MESSAGE_BYTES)
    assert [
        type(result) for result in client.encode_stream(itertools.repeat(large, 5), in_flight=2)
    ] == [TooLarge] * 5


@pytest.mark.parametrize("in_flight", [1, 8])
def test_stream_reads_an_endless_source_no_further_than_in_flight(
    client: Any, in_flight: int
) -> None:
    pulled = 0

    def endless() -> Iterator[bytes]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield str(number).encode()

    stream = client.encode_stream(endless(), in_flight=in_flight)
    for number in range(40):
        assert next(stream) == tokens_of(str(number).encode())
        assert pulled <= number + 1 + in_flight
    time.sleep(0.1)
    assert pulled <= 40 + in_flight
    stream.close()
    stopped_at = pulled
    time.sleep(0.1)
    assert pulled <= stopped_at + 1


def test_closed_stream_leaves_no_thread_behind(client: Any) -> None:
    before = set(threading.enumerate())
    stream = client.encode_stream(itertools.repeat(b"abc"))
    assert next(stream) == tokens_of(b"abc")
    stream.close()
    until = time.monotonic() + 5
    while any(
        t.name == "channeltok-stream" or "consume" in t.name
        for t in set(threading.enumerate()) - before
    ):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_stream_raises_the_sources_error_after_its_results(client: Any) -> None:
    def broken() -> Iterator[bytes]:
        yield from IMAGES[:10]
        raise KeyError("lost")

    stream = client.encode_stream(broken())
    assert [next(stream) for _ in range(10)] == [tokens_of(p) for p in IMAGES[:10]]
    with pytest.raises(KeyError, match="lost"):
        next(stream)


def test_stream_raises_type_error_for_tokens_of_the_wrong_type(client: Any) -> None:
    stream = client.decode_stream([tokens_of(b"a"), 7])
    assert next(stream) == b"png:a"
    with pytest.raises(TypeError):
        next(stream)


@pytest.mark.parametrize(
    ("fault", "cause", "message"),
    [
        (b"die", Unavailable, "going down"),
        (b"hang up", Unavailable, "before every item was answered"),
        (b"stranger", InternalError, "not in flight"),
        (b"twice", InternalError, "not in flight"),
    ],
)
@pytest.mark.parametrize("retries", [False, True])
def test_stream_raises_the_error_that_ended_it(
    connect: Connect,
    short_backoff: None,
    fault: bytes,
    cause: type[ChannelTokError],
    message: str,
    retries: bool,
) -> None:
    client = connect(retries=retries)
    images = itertools.chain(
        [fault], itertools.repeat(b"abc")
    )  # a source that never ends by itself
    with pytest.raises(cause, match=message):
        for _ in client.encode_stream(images):
            pass
    assert client.encode(b"abc") == tokens_of(b"abc")


def test_stream_never_loses_the_status_that_ended_it(connect: Connect) -> None:
    client = connect(retries=False)
    # Repeated, because grpc.aio loses the status only if the end meets a message being sent.
    for _ in range(20):
        with pytest.raises(Overloaded) as caught:
            list(client.encode_stream(itertools.chain([b"a", b"reject"], itertools.repeat(b"abc"))))
        assert caught.value.retry_after == RETRY_AFTER


def test_stream_raises_unavailable_when_the_service_dies(connect: Connect) -> None:
    server, address = start(FaultyService())
    stream = connect(address, retries=False).encode_stream(itertools.repeat(b"abc"))
    assert next(stream) == tokens_of(b"abc")
    server.stop(grace=None).wait()
    with pytest.raises(Unavailable):
        for _ in stream:
            pass


@pytest.mark.parametrize("retries", [False, True])
def test_stream_raises_unavailable_without_a_service(
    connect: Connect, short_backoff: None, retries: bool
) -> None:
    with pytest.raises(Unavailable):
        next(connect("127.0.0.1:1", retries=retries).encode_stream(itertools.repeat(b"abc")))


def test_stream_raises_unavailable_when_the_service_stays_away(connect: Connect) -> None:
    server, address = start(FaultyService())
    stream = connect(address, timeout=1.0).encode_stream(itertools.repeat(b"abc"))
    assert next(stream) == tokens_of(b"abc")
    server.stop(grace=None).wait()
    with pytest.raises(Unavailable):
        for _ in stream:
            pass


def test_stream_of_a_closed_client_ends(target: str) -> None:
    client = Client(target)
    stream = client.encode_stream(itertools.repeat(b"abc"))
    assert next(stream) == tokens_of(b"abc")
    client.close()
    with pytest.raises(Unavailable):
        for _ in stream:
            pass


@pytest.mark.parametrize("in_flight", [1, 8, 64])
def test_stream_goes_on_with_the_first_unanswered_item(
    connect: Connect, short_backoff: None, in_flight: int
) -> None:
    service = FaultyService()
    server, address = start(service)
    images = [b"item %d" % number for number in range(60)]
    images[5] = b"die 1 soon"
    images[30] = b"die 3 times"
    images[59] = b"die 2 at the end"
    try:
        client = connect(address)
        results = list(client.encode_stream(iter(images), in_flight=in_flight))
        assert results == [tokens_of(image) for image in images]
        decoded = list(client.decode_stream(map(tokens_of, images), in_flight=in_flight))
        assert decoded == [b"png:" + image for image in images]
    finally:
        server.stop(grace=None).wait()
    # What was answered is not sent again; an answer may be lost on its way when a call ends.
    assert set(service.answers) == set(images)
    assert service.attempts[b"die 3 times"] >= 4


def test_stream_outlives_a_restarted_service(connect: Connect) -> None:
    server, address = start(FaultyService())
    images = [b"item %d" % number for number in range(200)]
    results = []
    for result in connect(address).encode_stream(images, in_flight=8):
        results.append(result)
        if len(results) in (20, 90):
            server.stop(grace=None).wait()
            server, _ = start(FaultyService(), address)
    server.stop(grace=None).wait()
    assert results == [tokens_of(image) for image in images]


def test_stream_raises_deadline_exceeded_without_a_reply(connect: Connect) -> None:
    client = connect(timeout=0.3)
    stream = client.encode_stream([b"a", b"slow", b"b"])
    assert next(stream) == tokens_of(b"a")
    with pytest.raises(DeadlineExceeded, match="1 items in flight"):
        next(stream)
    assert client.encode(b"abc") == tokens_of(b"abc")


def test_stream_timeout_ignores_time_of_a_slow_caller(connect: Connect) -> None:
    results = []
    for result in connect(timeout=0.3).encode_stream(IMAGES[:3], in_flight=2):
        time.sleep(0.5)
        results.append(result)
    assert results == [tokens_of(p) for p in IMAGES[:3]]


def test_encode_stream_takes_images_in_every_form(client: Any, tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"photo")
    forms = [b"a", path, io.BytesIO(b"file"), pixels, Image.fromarray(pixels), 7, "no such file"]
    *results, seven, missing = client.encode_stream(forms)
    raw = tokens_of(pixels.tobytes())
    assert results == [*(tokens_of(p) for p in (b"a", b"photo", b"file")), raw, raw]
    assert (type(seven), type(missing)) == (InvalidInput, InvalidInput)
    assert "a int is no image" in seven.message
    assert list(client.encode_stream(np.stack([pixels] * 3))) == [raw] * 3


def test_encode_of_a_batch_returns_a_list(client: Any) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    raw = tokens_of(pixels.tobytes())
    assert client.encode(pixels) == raw
    assert client.encode(np.stack([pixels] * 3), k=2) == [raw.prefix(2)] * 3
    assert client.encode([b"a", pixels]) == [tokens_of(b"a"), raw]
    assert client.encode((b"a",)) == [tokens_of(b"a")]
    assert client.encode([]) == []
    with pytest.raises(InvalidInput, match="this is BAD_IMAGE"):
        client.encode([b"a", b"fail:BAD_IMAGE", b"b"])
    with pytest.raises(InvalidInput, match="a int is no image"):
        client.encode(7)


def test_encode_sends_large_pixels_as_a_png(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((5, 4, 3), np.uint8)
    monkeypatch.setattr(_messages, "MAX_RAW_PIXELS", 20)
    assert client.encode(pixels) == tokens_of(pixels.tobytes())
    monkeypatch.setattr(_messages, "MAX_RAW_PIXELS", 19)
    assert client.encode(pixels) == tokens_of(encode_png(pixels))


def test_decode_returns_an_image_that_opens_elsewhere(client: Any) -> None:
    (streamed,) = client.decode_stream([tokens_of(b"abc")])
    for image in (client.decode(tokens_of(b"abc")), streamed):
        assert isinstance(image, DecodedImage)
        assert image == b"png:abc"
