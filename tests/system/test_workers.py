"""Several gateway processes on the same ports."""

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import httpx
import psutil
from channeltok import ChannelTokError, Client
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc

from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running


def workers(service: Service) -> list[psutil.Process]:
    children = psutil.Process(service.process.pid).children()
    found = []
    for child in children:
        with suppress(psutil.NoSuchProcess):  # it may end meanwhile
            if child.name() not in ("tritonserver", "triton-guardian"):
                found.append(child)
    return found


def serves(worker: psutil.Process, service: Service) -> bool:
    """Whether it listens on the REST port, the last thing that a worker starts."""
    port = int(service.rest.rsplit(":", 1)[1])
    return any(
        one.status == psutil.CONN_LISTEN and one.laddr.port == port
        for one in worker.net_connections()
    )


def test_workers_share_the_ports_and_one_triton_and_are_scraped_as_one() -> None:
    with (
        running(workers="2", probe_seconds="0.5", max_queue_seconds="30") as service,
        ThreadPoolExecutor(16) as pool,
    ):
        assert len(workers(service)) == 2
        assert len(service.children("tritonserver")) == 1

        def encode(_: int) -> bytes:
            # One connection each, which the kernel gives to either worker. Channels of one pool
            # would share a connection.
            with grpc.insecure_channel(
                service.grpc, [("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                reply: pb.EncodeResponse = tokenizer_pb2_grpc.TokenizerStub(channel).Encode(
                    pb.EncodeRequest(image=jpeg()), timeout=60
                )
                return reply.tokens

        before = sample(service, "channeltok_images_total", rpc="encode")
        busy = Counter({worker.pid: -sum(worker.cpu_times()[:2]) for worker in workers(service)})
        assert len(set(pool.map(encode, range(64)))) == 1
        for worker in workers(service):
            busy[worker.pid] += sum(worker.cpu_times()[:2])
        assert all(seconds > 0 for seconds in busy.values()), "one of them did nothing"
        for _ in range(8):  # whichever answers
            assert sample(service, "channeltok_images_total", rpc="encode") - before == 64
            assert sample(service, "channeltok_ready") == 1
            assert sample(service, "channeltok_images_in_flight_limit") == 32  # 16 in each worker
            assert sample(service, "nv_inference_count", model_suffix="encode") >= 64


def test_crashed_or_stopped_worker_is_replaced_and_a_stop_loses_no_call() -> None:
    with running(workers="2", probe_seconds="0.5") as service:
        children = service.children()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            victim, ready = workers(service)[0], len(service.events("ready"))
            os.kill(victim.pid, number)
            eventually(
                lambda gone=victim: len(workers(service)) == 2 and gone not in workers(service),
                30,
                "a new worker",
            )
            eventually(
                lambda before=ready: (
                    len(service.events("ready")) > before
                    and all(serves(worker, service) for worker in workers(service))
                ),
                30,
                "readiness",
            )
        eventually(
            lambda: sample(service, "channeltok_engine_restarts_total", component="worker") == 2,
            30,
            "their count",
        )
        assert len(service.events("worker_hangs")) == 1
        children = [*children, *service.children()]
        lost: list[Exception] = []

        def work() -> None:
            with Client(service.grpc, retries=False) as client:
                try:
                    while True:
                        client.encode(jpeg())
                except ChannelTokError as error:
                    if error.code != "STOPPING" and "connect" not in error.message.lower():
                        lost.append(error)

        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(work)
            time.sleep(2)
            assert service.stop() == 0
        assert not lost

        def last_lines() -> list[str]:
            return [line for line in service.log if '"unfinished"' in line]

        with suppress(AssertionError):
            eventually(lambda: len(last_lines()) == 2, 10)
        unfinished = [json.loads(line)["unfinished"] for line in last_lines()]
        assert unfinished == [0, 0], "".join(service.log[-40:])
        assert not [
            child
            for child in children
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@contextmanager
def connections_under_load(service: Service) -> Iterator[None]:
    """Callers on both protocols, each on a connection of its own, who stay as long as they can."""

    def encode_over_grpc() -> None:
        with Client(service.grpc, retries=False) as client, suppress(ChannelTokError):
            while True:
                client.encode(jpeg())

    def encode_over_rest() -> None:
        with httpx.Client(base_url=service.rest) as client, suppress(httpx.HTTPError):
            while client.post("/v1/encode", content=jpeg()).is_success:
                pass

    with ThreadPoolExecutor(8) as pool:
        for work in (encode_over_grpc, encode_over_rest) * 4:
            pool.submit(work)
        eventually(
            lambda: sample(service, "channeltok_images_in_flight") > 0, 30, "images in flight"
        )
        yield


def test_restart_with_another_number_of_workers_binds_at_once() -> None:
    ports = {"rest_port": free_port(), "grpc_port": free_port()}
    for count, number in (("1", signal.SIGKILL), ("2", signal.SIGKILL), ("1", signal.SIGTERM)):
        with running(workers=count, **ports) as service, connections_under_load(service):
            service.stop(number)
