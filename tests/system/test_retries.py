"""Retries of both clients while the service goes away and comes back, and what the service says of
them."""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from channeltok import AsyncClient, ChannelTokError, Client, Tokens, Unavailable
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub
from PIL import Image

from tests.support.interrupted import interrupted
from tests.support.photographs import crops, jpeg, photograph
from tests.support.running import Service, running

CALLERS = 16  # half of them with each client
DEADLINE = 10.0
SECONDS = 20.0
PAUSE = 0.5
PUSHBACK = "grpc-retry-pushback-ms"


@dataclass
class Calls:
    """answered: number of calls. lost: the errors of the others."""

    answered: int = 0
    lost: list[ChannelTokError] = field(default_factory=list)

    def count(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except ChannelTokError as error:
            self.lost.append(error)
        else:
            self.answered += 1


@contextmanager
def calling(address: str, direct: Client) -> Iterator[Calls]:
    """CALLERS callers, until the end of `with`. All encode, one of each client calls the rest too.

    It begins once both clients have reached the service. Callers pause, and pixels are quick to
    read, so that all of them are served within a fraction of a second on a busy machine too.
    direct: a client of the same service that nothing interrupts.
    """
    pixels = np.asarray(Image.fromarray(photograph("chelsea")).resize((128, 128)))
    expected = direct.encode(pixels)
    decoded = direct.decode(expected)
    calls, stop, reached = Calls(), threading.Event(), threading.Barrier(3)

    def call(client: Client, number: int) -> None:
        while not stop.is_set():
            calls.count(lambda: check(client.encode(pixels), expected))
            if number == 0:
                calls.count(lambda: check(client.decode(expected), decoded))
                calls.count(client.tokenizers)
            stop.wait(PAUSE)

    async def call_again(client: AsyncClient, number: int) -> None:
        while not stop.is_set():
            due: list[tuple[Awaitable[Any], object]] = [(client.encode(pixels), expected)]
            if number == 0:
                due += [(client.decode(expected), decoded), (client.generators(), [])]
            for work, result in due:
                try:
                    check(await work, result)
                except ChannelTokError as error:
                    calls.lost.append(error)
                else:
                    calls.answered += 1
            await asyncio.sleep(PAUSE)

    async def call_asynchronously() -> None:
        async with AsyncClient(address, DEADLINE) as client:
            await client.tokenizers()
            reached.wait()
            await asyncio.gather(*(call_again(client, number) for number in range(CALLERS // 2)))

    def call_in_threads() -> None:
        with Client(address, DEADLINE) as client, ThreadPoolExecutor(CALLERS) as pool:
            client.tokenizers()
            reached.wait()
            for work in [pool.submit(call, client, one) for one in range(CALLERS // 2)]:
                work.result()

    with ThreadPoolExecutor(2) as pool:
        works = [pool.submit(asyncio.run, call_asynchronously()), pool.submit(call_in_threads)]
        reached.wait(60)
        try:
            yield calls
        finally:
            stop.set()
        for work in works:
            work.result()


def check(result: object, expected: object) -> None:
    assert result == expected


@contextmanager
def reporting(address: str, image: bytes) -> Iterator[Calls]:
    """A caller without retries, until the end of `with`."""
    calls, stop = Calls(), threading.Event()

    def call() -> None:
        with Client(address, DEADLINE, retries=False) as client:
            while not stop.is_set():
                calls.count(lambda: client.encode(image))
                stop.wait(0.05)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield calls
    finally:
        stop.set()
        thread.join()


def seconds_for_all(client: Client) -> float:
    """How long the service takes for calls of all callers at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda _: client.encode(jpeg()), range(CALLERS)))
    return time.monotonic() - began


def test_no_call_is_lost_while_the_service_goes_away_every_second(
    service: Service, client: Client
) -> None:
    # Less often on a machine where a call takes as long as the service is there: gRPC repeats a
    # call four times.
    every = max(1.0, 0.3 + 3 * seconds_for_all(client))
    with (
        interrupted(service.grpc, every=every, away=0.3) as front,
        calling(front.address, client) as calls,
        reporting(front.address, jpeg()) as reported,
    ):
        front.begin()
        time.sleep(SECONDS)
    assert front.count >= SECONDS / every / 2
    assert not calls.lost
    assert calls.answered > 100
    assert len(reported.lost) >= front.count / 2
    assert {type(error) for error in reported.lost} == {Unavailable}


@pytest.mark.slow
def test_no_call_is_lost_while_the_gateway_is_restarted() -> None:
    """Killed or stopped when it has been ready for a second, then started at once. Its Triton
    stays."""
    with running() as owner, Client(owner.grpc) as direct:
        settings = {"triton_url": owner.triton_address()}
        with running(**settings) as first:
            settings["grpc_port"] = first.grpc.rpartition(":")[2]
            address = first.grpc
        away: list[float] = []  # seconds of each restart
        started, begun, ended = threading.Event(), threading.Event(), threading.Event()

        def restart() -> None:
            gone = 0.0
            while not ended.is_set():
                with running(**settings) as gateway:
                    if started.is_set():
                        away.append(time.monotonic() - gone)
                    started.set()
                    begun.wait()
                    ended.wait(1)
                    gone = time.monotonic()
                    if len(away) % 2 == 0 and not ended.is_set():
                        gateway.process.kill()  # else it is stopped, at the end of `with`

        with ThreadPoolExecutor(1) as pool:
            restarting = pool.submit(restart)
            assert started.wait(120)
            try:
                with (
                    calling(address, direct) as calls,
                    reporting(address, jpeg()) as reported,
                ):
                    begun.set()
                    time.sleep(SECONDS)
            finally:
                begun.set()
                ended.set()
            restarting.result()
    assert away
    if max(away) > DEADLINE - 2:
        pytest.skip(f"a gateway takes {max(away):.0f} s to start here, and calls wait for 10 s")
    assert not calls.lost
    assert calls.answered > 100
    assert reported.lost
    assert {type(error) for error in reported.lost} == {Unavailable}


def test_stream_goes_on_after_each_interruption(service: Service, client: Client) -> None:
    photos = crops(40)
    expected = list(client.encode_stream(photos, k=32))
    images = itertools.chain.from_iterable(itertools.repeat(photos, 4))
    with (
        interrupted(service.grpc, every=1.0, away=0.3) as front,
        Client(front.address, DEADLINE) as other,
    ):
        other.tokenizers()
        front.begin()
        assert list(other.encode_stream(images, k=32, in_flight=8)) == expected * 4
        tokens = [each for each in expected if isinstance(each, Tokens)]
        images_of = list(other.decode_stream(tokens, in_flight=8))
    assert images_of == [client.decode(each) for each in tokens]
    assert front.count


def trailing(call: Any) -> dict[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return dict(caught.value.trailing_metadata())


def test_service_says_when_a_refused_call_may_be_repeated(service: Service) -> None:
    request, bad = pb.EncodeRequest(image=jpeg(), k=1), pb.EncodeRequest(k=0)
    with (
        running(rate_limit="0.25", rate_burst="1") as limited,
        grpc.insecure_channel(limited.grpc) as channel,
        grpc.insecure_channel(service.grpc) as unlimited,
    ):
        encode = TokenizerStub(channel).Encode  # type: ignore[no-untyped-call]
        other = TokenizerStub(unlimited).Encode  # type: ignore[no-untyped-call]
        encode(request, timeout=30)
        milliseconds = int(trailing(lambda: encode(request, timeout=30))[PUSHBACK])
        assert 1000 <= milliseconds <= 4000
        # Not beyond the deadline, and not where it is of no use.
        assert trailing(lambda: encode(request, timeout=1))[PUSHBACK] == "-1"
        assert trailing(lambda: other(bad, timeout=30))[PUSHBACK] == "-1"
        with Client(limited.grpc) as client:
            started = time.monotonic()
            assert client.encode(jpeg(), 1).k == 1
            assert time.monotonic() - started > 0.5
