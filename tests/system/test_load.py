"""Overload, priorities, cancelled calls, deadlines, and stopping under load."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from channeltok import (
    AsyncClient,
    ChannelTokError,
    Client,
    DeadlineExceeded,
    Overloaded,
    Tokens,
    Unavailable,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.engines import running_faulty_encoder
from tests.support.metrics import sample
from tests.support.photographs import crops, jpeg
from tests.support.running import Service, eventually, running


def test_overload_is_refused_with_a_hint() -> None:
    with (
        running(max_in_flight="2", max_queue_size="2") as service,
        Client(service.grpc, retries=False) as client,
        ThreadPoolExecutor(16) as pool,
    ):

        def attempt(_: int) -> Exception | None:
            try:
                client.encode(jpeg())
            except ChannelTokError as error:
                return error
            return None

        outcomes = list(pool.map(attempt, range(64)))
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert 0 < len(refused) < 64
        assert all(isinstance(error, Overloaded) and error.retry_after for error in refused)
        replies = list(
            pool.map(
                lambda _: httpx.post(f"{service.rest}/v1/encode", content=jpeg(), timeout=60),
                range(64),
            )
        )
        statuses = {reply.status_code for reply in replies}
        assert statuses == {200, 429}
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 429)
        # A stream waits for its turn instead.
        assert all(
            not isinstance(outcome, Exception) for outcome in client.encode_stream(crops(30))
        )


def test_single_call_overtakes_a_stream() -> None:
    with (
        running(max_in_flight="1", max_queue_seconds="5") as service,
        Client(service.grpc) as client,
    ):
        photos = crops(64)
        bulk = client.encode_stream(photos)
        next(bulk)
        eventually(
            lambda: sample(service, "channeltok_images_waiting", priority="bulk") > 16,
            30,
            "a queue of the stream's",
        )
        before = sample(service, "channeltok_images_total", rpc="encode_stream")
        client.encode(jpeg())
        between = sample(service, "channeltok_images_total", rpc="encode_stream") - before
        assert (
            between < 16
        )  # in turn it would have waited for all that the stream has in its window
        assert sum(isinstance(tokens, Tokens) for tokens in bulk) == 63


def executed(service: Service) -> int:
    """Images that Triton's encode model computed."""
    with grpc.insecure_channel(service.triton_address()) as channel:
        request = service_pb2.ModelStatisticsRequest(name="demo_encode")
        (model,) = (
            service_pb2_grpc.GRPCInferenceServiceStub(channel)
            .ModelStatistics(request, timeout=10)
            .model_stats
        )
        return int(model.inference_count)


CALLERS = 200  # more than a second of work for one place


@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
async def test_queued_work_of_cancelled_calls_never_reaches_the_engine(protocol: str) -> None:
    with running(
        max_in_flight="1", max_queue_size="1000", max_queue_seconds="60", probe_seconds="3600"
    ) as service:
        before = executed(service)
        async with (
            AsyncClient(service.grpc) as client,
            httpx.AsyncClient(base_url=service.rest, limits=httpx.Limits()) as rest,
        ):

            async def call() -> None:
                if protocol == "gRPC":
                    await client.encode(jpeg())
                else:
                    await rest.post("/v1/encode", content=jpeg())

            calls = [asyncio.create_task(call()) for _ in range(CALLERS)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for one in calls:
                one.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        eventually(
            lambda: sample(service, "channeltok_images_in_flight") == 0, 30, "an empty service"
        )
        assert sample(service, "channeltok_images_waiting") == 0
        assert 1 <= executed(service) - before < CALLERS / 4
        assert sample(service, "channeltok_request_seconds_count", code="CANCELLED") > 0


def test_passed_deadline_is_always_deadline_exceeded(tmp_path: Path) -> None:
    """The caller's gRPC, ours, or the service: to the first two it is a cancelled call."""
    with (
        running_faulty_encoder(
            tmp_path,
            probe_seconds="60",
            log_level="debug",
            max_in_flight="64",
            drain_seconds="0.1",
        ) as faulty,
        ThreadPoolExecutor(8) as pool,
    ):
        service = faulty.service
        faulty.fault.write_text("hangs")

        def call(number: int) -> type[Exception] | None:
            with Client(service.grpc, timeout=1.5 + number / 100, retries=False) as client:
                try:
                    client.encode(jpeg())
                except ChannelTokError as error:
                    return type(error)
            return None

        assert set(pool.map(call, range(24))) == {DeadlineExceeded}
        eventually(
            lambda: (
                sample(service, "channeltok_request_seconds_count", code="DEADLINE_EXCEEDED") == 24
            ),
            5,
            "their count",
        )
        assert [
            event["code"] for event in service.events("access") if event["call"] == "Encode"
        ] == ["DEADLINE_EXCEEDED"] * 24


def test_stop_under_load_loses_no_call_and_leaves_no_process() -> None:
    with running() as service:
        children = service.children()
        folder = service.triton_folder()
        assert list(folder.parent.glob(f"{folder.name}-*"))
        lost: list[Exception] = []
        answered = 0
        stopping = threading.Event()

        def work() -> None:
            nonlocal answered
            with Client(service.grpc, retries=False) as client:
                while not stopping.is_set():
                    try:
                        client.encode(jpeg())
                        answered += 1
                    except ChannelTokError as error:
                        if (
                            error.code != "STOPPING" and "connect" not in error.message.lower()
                        ):  # else it was never accepted
                            lost.append(error)
                        return

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        time.sleep(2)
        assert service.stop() == 0
        stopping.set()
        for worker in workers:
            worker.join()
        assert not lost
        assert answered > 8
        eventually(
            lambda: any('"unfinished": 0' in line for line in service.log),
            10,
            "the last line of the log",
        )
        assert not [
            child
            for child in children
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]
    assert not list(folder.parent.glob(f"{folder.name}*"))


def test_stop_answers_a_stream_and_ends_it() -> None:
    with running() as service, Client(service.grpc, retries=False) as client:
        under_way = threading.Event()
        answers: list[Tokens | ChannelTokError] = []
        stopper = threading.Thread(target=lambda: (under_way.wait(), service.stop()))
        stopper.start()

        def take_all() -> None:
            for answer in client.encode_stream(jpeg() for _ in range(10_000)):
                answers.append(answer)
                under_way.set()

        with pytest.raises(Unavailable) as caught:
            take_all()
        stopper.join()
        assert caught.value.code == "STOPPING"
        assert any(isinstance(answer, Tokens) for answer in answers)
        # What was read in the last instant has not begun, and says so.
        assert {answer.code for answer in answers if isinstance(answer, ChannelTokError)} <= {
            "STOPPING"
        }
        eventually(
            lambda: any('"unfinished": 0' in line for line in service.log),
            10,
            "the last line of the log",
        )
