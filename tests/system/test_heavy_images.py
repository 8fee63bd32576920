"""Images that take seconds to decode: deadlines, disconnects and stops mean what they say."""

import io
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import httpx
import numpy as np
import psutil
import pytest
from channeltok import ChannelTokError, Client, Tokens
from PIL import Image

from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running

SLACK = 5.0  # of a busy machine


@cache
def heavy() -> bytes:
    """A lossy WebP of 36 megapixels of noise: 13 MB, a second of the fastest core and more."""
    noise = np.random.default_rng(0).integers(0, 256, (5990, 5990, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "WEBP", method=0, quality=20)
    return buffer.getvalue()


def decoding(service: Service) -> float:
    return sample(service, "channeltok_image_decodes", lane="heavy")


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_deadline_ends_a_decoding_and_its_worker(service: Service, client: Client) -> None:
    client.encode(jpeg())
    before = {worker.pid for worker in service.children("image-heavy")}
    cancelled = sample(service, "channeltok_image_worker_restarts_total", reason="cancelled")
    began = time.monotonic()
    with Client(service.grpc, timeout=0.5) as hasty, pytest.raises(ChannelTokError) as caught:
        hasty.encode(heavy())
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert time.monotonic() - began < 0.5 + SLACK
    eventually(
        lambda: (
            sample(service, "channeltok_image_worker_restarts_total", reason="cancelled")
            == cancelled + 1
        ),
        30,
        "the end of the worker",
    )
    after = {worker.pid for worker in service.children("image-heavy")}
    assert len(before - after) == 1
    eventually(lambda: len(service.children("image-heavy")) == len(before), 30, "another worker")


def test_disconnect_ends_a_decoding(service: Service, client: Client) -> None:
    reason = {"reason": "cancelled"}
    before = sample(service, "channeltok_image_worker_restarts_total", **reason)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{service.rest}/v1/encode", content=heavy(), timeout=httpx.Timeout(30, read=0.5)
        )
    eventually(
        lambda: sample(service, "channeltok_image_worker_restarts_total", **reason) == before + 1,
        30,
        "the end of the worker",
    )
    assert sample(service, "channeltok_images_in_flight", rpc="encode") == 0


def test_heavy_images_hold_no_permit_that_small_ones_need() -> None:
    """With two permits, heavy images that held them would have the small ones refused."""
    codes: list[str] = []
    stop = threading.Event()
    with running(max_in_flight="2") as service, Client(service.grpc, timeout=60) as client:
        expected = client.encode(jpeg())

        def send_heavy() -> None:
            with Client(service.grpc, timeout=60) as sender:
                while not stop.is_set():
                    try:
                        sender.encode(heavy())
                        codes.append("OK")
                    except ChannelTokError as error:
                        codes.append(error.code)
                        stop.wait(0.2)

        with ThreadPoolExecutor(8) as pool:
            senders = [pool.submit(send_heavy) for _ in range(8)]
            try:
                eventually(lambda: decoding(service) > 0, 30, "heavy images")
                for _ in range(30):
                    assert client.encode(jpeg()) == expected
                eventually(lambda: len(codes) >= 8, 120, "answers to heavy images")
            finally:
                stop.set()
            for sender in senders:
                sender.result()
    assert set(codes) <= {"OK", "OVERLOADED"}


@pytest.mark.parametrize("drain_seconds", [60, 0])
def test_stop_finishes_a_decoding_or_kills_it(drain_seconds: int) -> None:
    with (
        running(drain_seconds=str(drain_seconds), max_queue_seconds="60") as service,
        Client(service.grpc, timeout=120, retries=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        expected = client.encode(jpeg())
        children = service.children()
        call: Future[Tokens] = pool.submit(client.encode, heavy())
        eventually(lambda: decoding(service) == 1, 30, "a decoding")
        began = time.monotonic()
        assert service.stop(timeout=120) == 0
        taken = time.monotonic() - began
        if drain_seconds == 60:
            assert call.result().fingerprint == expected.fingerprint
            assert service.events("stopped")[0]["unfinished"] == 0
        else:
            with pytest.raises(ChannelTokError) as caught:
                call.result()
            assert caught.value.code in ("STOPPING", "UNAVAILABLE")
            assert taken < drain_seconds + 2 * SLACK
        assert not any(map(alive, children))


def test_killed_service_leaves_no_decoding() -> None:
    with running() as service, Client(service.grpc) as client, ThreadPoolExecutor(1) as pool:
        client.encode(jpeg())
        call = pool.submit(client.encode, heavy())
        eventually(lambda: decoding(service) == 1, 30, "a decoding")
        processes = service.children("image-")
        assert len(processes) >= 3  # the fork server, a light worker and a heavy one
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
        eventually(lambda: not any(map(alive, processes)), SLACK, "their end")
        assert isinstance(call.exception(), ChannelTokError)
