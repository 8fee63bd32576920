"""Both clients against a real gRPC server: every case runs with Client and with AsyncClient."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from channeltok import (
    AsyncClient,
    ChannelTokError,
    Client,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    TokenizerInfo,
    Tokens,
    TooLarge,
    Unavailable,
    UnknownTokenizer,
)
from channeltok._messages import MAX_MESSAGE_BYTES

from tests.support.faulty_service import FINGERPRINT, RETRY_AFTER, FaultyService, start, tokens_of
from tests.support.typed_errors import CLASS_OF_CODE, CLASS_OF_STATUS

Connect = Callable[..., Any]

IMAGES = [f"image {number}".encode() for number in range(200)]


# Unary calls


def test_encode_returns_tokens(client: Any) -> None:
    tokens = client.encode(b"abc")
    assert tokens.ids.tolist() == [97, 98, 99]
    assert tokens.fingerprint == FINGERPRINT


@pytest.mark.parametrize("k", [1, 2, 3, np.int64(2)])
def test_encode_returns_the_first_k_tokens(client: Any, k: int) -> None:
    assert client.encode(b"abc", k=k) == tokens_of(b"abc").prefix(k)


@pytest.mark.parametrize("k", [0, 4, 2**32 - 1])
def test_encode_leaves_the_range_of_k_to_the_service(client: Any, k: int) -> None:
    with pytest.raises(InvalidInput, match="this is BAD_K"):
        client.encode(b"abc", k=k)


@pytest.mark.parametrize("k", [-1, 2**32])
def test_encode_refuses_a_k_outside_uint32(client: Any, k: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.encode(b"abc", k=k)
    assert caught.value.code == "BAD_K"
    with pytest.raises(InvalidInput):
        next(client.encode_stream([b"abc"], k=k))


def test_encode_takes_a_tokenizer_by_name(client: Any) -> None:
    assert client.encode(b"abc", tokenizer="bytewise") == tokens_of(b"abc")
    with pytest.raises(UnknownTokenizer):
        client.encode(b"abc", tokenizer="no such")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_decode_returns_the_requested_format(client: Any, format: str) -> None:
    tokens = tokens_of(b"abc")
    assert client.decode(tokens, format) == f"{format}:abc".encode()
    assert client.decode(tokens.to_bytes(), format=format) == f"{format}:abc".encode()


def test_decode_returns_png_by_default(client: Any) -> None:
    assert client.decode(tokens_of(b"abc")) == b"png:abc"


def test_decode_raises_typed_errors(client: Any) -> None:
    with pytest.raises(InvalidInput, match="png, jpeg, webp, not 'gif'"):
        client.decode(tokens_of(b"abc"), "gif")
    with pytest.raises(InvalidInput, match="BAD_TOKENS"):
        client.decode(b"no tokens")
    with pytest.raises(ChannelTokError, match="FINGERPRINT_MISMATCH"):
        client.decode(Tokens([1], "f" * 16))


def test_tokenizers_lists_the_default_first(client: Any) -> None:
    first, second = client.tokenizers()
    assert first == TokenizerInfo(
        "bytewise", "none", FINGERPRINT, 256, 8, 256, 64, (32, 64, 256), (0.25, 0.5, 1.0)
    )  # ids by bits: it does not say how many
    assert (second.name, second.vocab_size, second.budgets) == ("another-one", 64_000, ())


@pytest.mark.parametrize(("code", "cause"), CLASS_OF_CODE.items())
def test_client_raises_the_class_of_every_code(
    client: Any, code: str, cause: type[ChannelTokError]
) -> None:
    payload = f"fail:{code}".encode()
    for call, argument in ((client.encode, payload), (client.decode, tokens_of(payload))):
        with pytest.raises(cause) as caught:
            call(argument)
        assert caught.value.code == code
        assert caught.value.message == f"this is {code}"
        assert caught.value.retry_after == (RETRY_AFTER if code == "OVERLOADED" else None)


@pytest.mark.parametrize(("status", "expected"), CLASS_OF_STATUS.items())
def test_client_raises_by_status_without_details(
    connect: Connect, status: str, expected: tuple[type[ChannelTokError], str]
) -> None:
    with pytest.raises(ChannelTokError) as caught:
        connect(retries=False).encode(f"bare:{status}".encode())
    assert (type(caught.value), caught.value.code) == expected


def test_client_raises_internal_error_for_an_unreadable_reply(client: Any) -> None:
    with pytest.raises(InternalError, match="end after 7 bytes"):
        client.encode(b"garbage")


def test_client_raises_deadline_exceeded(connect: Connect) -> None:
    client = connect(timeout=0.2)
    with pytest.raises(DeadlineExceeded):
        client.encode(b"slow")
    assert client.encode(b"abc") == tokens_of(b"abc")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_client_refuses_a_timeout_of_zero_or_less(connect: Connect, timeout: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        connect(timeout=timeout)


def test_client_refuses_an_image_larger_than_a_message(client: Any) -> None:
    with pytest.raises(TooLarge):
        client.encode(bytes(MAX_MESSAGE_BYTES))
    with pytest.raises(TooLarge):
        client.decode(bytes(MAX_MESSAGE_BYTES))


def test_client_raises_too_large_where_grpc_refuses(client: Any) -> None:
    with pytest.raises(TooLarge, match="larger than max"):
        client.encode(b"abc", tokenizer="x" * MAX_MESSAGE_BYTES)


@pytest.mark.parametrize("retries", [False, True])
def test_client_raises_unavailable_without_a_service(
    connect: Connect, retries: bool, short_backoff: None
) -> None:
    with pytest.raises(Unavailable, match="refused") as caught:
        connect("127.0.0.1:1", retries=retries).encode(b"abc")
    assert caught.value.code == "UNAVAILABLE"


def test_client_reconnects_to_a_restarted_service(connect: Connect) -> None:
    server, address = start(FaultyService())
    client = connect(address, retries=False)
    assert client.encode(b"abc") == tokens_of(b"abc")
    server.stop(grace=None).wait()
    with pytest.raises(Unavailable):
        client.encode(b"abc")
    server, _ = start(FaultyService(), address)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                assert client.encode(b"abc") == tokens_of(b"abc")
                break
            except Unavailable:
                assert time.monotonic() < until
                time.sleep(0.1)
    finally:
        server.stop(grace=None).wait()


# Retries


def test_client_repeats_calls_that_were_unavailable(
    client: Any, service: FaultyService, unique: str
) -> None:
    image = f"busy:4:1:{unique}".encode()
    assert client.encode(image) == tokens_of(image)
    assert service.attempts[image] == 5
    image = image.replace(b"4", b"2", 1)
    assert client.decode(tokens_of(image)) == b"png:" + image
    assert service.attempts[image] == 3


def test_client_gives_up_after_five_attempts(
    client: Any, service: FaultyService, unique: str
) -> None:
    image = f"busy:99:1:{unique}".encode()
    with pytest.raises(Unavailable, match="busy"):
        client.encode(image)
    assert service.attempts[image] == 5


def test_client_waits_as_long_as_the_service_says(client: Any, unique: str) -> None:
    image = f"busy:1:700:{unique}".encode()
    started = time.monotonic()
    assert client.encode(image) == tokens_of(image)
    assert time.monotonic() - started >= 0.7


@pytest.mark.parametrize(
    "kind", ["busy:9:-1:no", "fail:INTERNAL", "fail:TOO_LARGE", "bare:UNKNOWN"]
)
def test_client_does_not_repeat_what_is_of_no_use(
    client: Any, service: FaultyService, kind: str
) -> None:
    before = service.attempts[kind.encode()]
    with pytest.raises(ChannelTokError):
        client.encode(kind.encode())
    assert service.attempts[kind.encode()] == before + 1


def test_client_repeats_nothing_without_retries(
    connect: Connect, service: FaultyService, unique: str
) -> None:
    client = connect(retries=False)
    image = f"busy:1:1:{unique}".encode()
    with pytest.raises(Unavailable, match="busy"):
        client.encode(image)
    assert service.attempts[image] == 1


def test_client_keeps_its_deadline_over_all_attempts(connect: Connect, unique: str) -> None:
    client = connect(timeout=0.5)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.encode(f"busy:9:400:{unique}".encode())
    assert time.monotonic() - started < 5


def test_client_waits_for_a_service_that_it_has_reached(connect: Connect) -> None:
    server, address = start(FaultyService())
    client = connect(address)
    assert client.encode(b"abc") == tokens_of(b"abc")
    server.stop(grace=None).wait()
    back: list[Any] = []
    timer = threading.Timer(1.0, lambda: back.append(start(FaultyService(), address)))
    timer.start()
    try:
        assert client.encode(b"abc") == tokens_of(b"abc")
    finally:
        timer.join()
        back[0][0].stop(grace=None).wait()


# Cases of one client only


def test_stream_timeout_ignores_time_of_a_slow_source(target: str) -> None:
    def slow() -> Iterator[bytes]:
        for image in IMAGES[:3]:
            time.sleep(0.5)
            yield image

    with Client(target, timeout=0.3) as client:
        assert list(client.encode_stream(slow())) == [tokens_of(p) for p in IMAGES[:3]]


async def test_async_stream_timeout_ignores_time_of_a_slow_source(target: str) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for image in IMAGES[:3]:
            await asyncio.sleep(0.5)
            yield image

    async with AsyncClient(target, timeout=0.3) as client:
        assert [result async for result in client.encode_stream(slow())] == [
            tokens_of(p) for p in IMAGES[:3]
        ]


def test_client_can_be_shared_between_threads(target: str) -> None:
    results = {}

    def work(client: Client, name: int) -> None:
        results[name] = [client.encode(p) for p in IMAGES[:20]]

    with Client(target) as client:
        threads = [threading.Thread(target=work, args=(client, name)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(results.values()) == [[tokens_of(p) for p in IMAGES[:20]]] * 4


def test_async_client_needs_a_running_event_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient()


async def test_async_client_runs_calls_and_streams_concurrently(target: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        for image in IMAGES:
            await asyncio.sleep(0)
            yield image

    async with AsyncClient(target) as client:

        async def all_of() -> list[Tokens | ChannelTokError]:
            return [result async for result in client.encode_stream(source())]

        streams = [all_of() for _ in range(4)]
        calls = [client.encode(p) for p in IMAGES[:50]]
        results = await asyncio.gather(*streams, *calls)
    assert results[:4] == [[tokens_of(p) for p in IMAGES]] * 4
    assert results[4:] == [tokens_of(p) for p in IMAGES[:50]]


async def test_async_client_cancels_the_call_of_a_cancelled_task(target: str) -> None:
    async with AsyncClient(target) as client:

        async def stream() -> None:
            async for _ in client.encode_stream([b"slow"]):
                pass

        for work in (client.encode(b"slow"), stream()):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await client.encode(b"abc") == tokens_of(b"abc")


async def test_closed_async_stream_leaves_no_task_behind(target: str) -> None:
    async with AsyncClient(target) as client:
        before = len(asyncio.all_tasks())
        async with aclosing(client.encode_stream(itertools.repeat(b"abc"))) as stream:
            assert await anext(stream) == tokens_of(b"abc")
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) <= before
