"""Valid, invalid and vanishing callers at the same time do not harm the service."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from channeltok import ChannelTokError, Client, Overloaded

from tests.support.bad_input import BAD_IMAGES, bomb
from tests.support.metrics import sample
from tests.support.photographs import crops, jpeg
from tests.support.running import Service, eventually


def test_service_survives_valid_invalid_and_vanishing_callers(
    service: Service, client: Client
) -> None:
    expected = client.encode(jpeg(), 16)
    photos = crops(20)

    def encode(image: bytes) -> bytes:
        """Encode, again where the service asks for it: it may well be full."""
        while True:
            try:
                return client.encode(image, 16)
            except Overloaded as error:
                time.sleep(error.retry_after or 1)

    def good(_: random.Random) -> None:
        assert encode(jpeg()) == expected

    def bad(chance: random.Random) -> None:
        image, code, _ = chance.choice(list(BAD_IMAGES.values()))
        try:
            encode(image)
            raise AssertionError("a bad image was taken")
        except ChannelTokError as error:
            assert error.code == code

    def impatient(_: random.Random) -> None:
        with Client(service.grpc, timeout=0.003, retries=False) as hasty:
            try:
                hasty.encode(jpeg())
            except ChannelTokError as error:
                assert error.code in ("DEADLINE_EXCEEDED", "OVERLOADED", "UNAVAILABLE")

    def vanishing_in_the_stream(_: random.Random) -> None:
        stream = client.encode_stream(photos)
        next(stream)
        stream.close()

    def vanishing_in_the_body(_: random.Random) -> None:
        host, port = service.rest.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
                b"Content-Length: 99999\r\n\r\n" + jpeg()[:500]
            )

    def gone_before_the_answer(_: random.Random) -> None:
        host, port = service.rest.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Length: {len(jpeg())}\r\n\r\n"
            )
            connection.sendall(head.encode() + jpeg())

    def not_even_http(chance: random.Random) -> None:
        host, port = service.rest.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(chance.randbytes(200))

    kinds = [
        good,
        good,
        bad,
        bad,
        impatient,
        vanishing_in_the_stream,
        vanishing_in_the_body,
        gone_before_the_answer,
        not_even_http,
    ]
    chance = random.Random(3)
    with ThreadPoolExecutor(16) as pool:
        for outcome in [
            pool.submit(chance.choice(kinds), random.Random(seed)) for seed in range(400)
        ]:
            outcome.result()

    assert client.encode(jpeg(), 16) == expected
    assert (
        httpx.post(f"{service.rest}/v1/encode?k=4", content=bomb(), timeout=30).status_code == 413
    )
    assert service.process.poll() is None
    assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]
    eventually(lambda: sample(service, "channeltok_images_in_flight") == 0, 30, "an empty service")
