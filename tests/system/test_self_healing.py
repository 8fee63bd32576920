"""The service replaces engine processes that crash, hang or return wrong results."""

import ctypes
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import tritonclient.grpc
from channeltok import ChannelTokError, Client, DeadlineExceeded, Tokens, Unavailable

from tests.support.engines import (
    FaultyEncoder,
    image_or_none,
    restarts,
    running_faulty_encoder,
    stubs,
    tokens_or_none,
    triton,
)
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running, standing_still

PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000  # of Linux' ptrace.h and wait.h


def faults(service: Service) -> dict[str, tuple[list[psutil.Process], int, str]]:
    """Name -> processes, the signal they get, and what must have been restarted."""
    return {
        "one stub killed": (stubs(service, "demo_encode")[:1], signal.SIGKILL, "demo_encode"),
        "all stubs killed": (stubs(service, "demo_encode"), signal.SIGKILL, "demo_encode"),
        "a stub stopped": (stubs(service, "demo_encode")[:1], signal.SIGSTOP, "demo_encode"),
        "Triton killed": ([triton(service)], signal.SIGKILL, "triton"),
        "Triton stopped": ([triton(service)], signal.SIGSTOP, "triton"),
    }


@pytest.mark.slow  # the chaos attacks kill processes too, but do not stop any
def test_service_recovers_from_every_fault_without_wrong_results() -> None:
    """Under load each call returns the right tokens or UNAVAILABLE, and soon only right tokens."""
    with (
        running(probe_seconds="0.5") as service,
        Client(service.grpc, timeout=20) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        expected = client.encode(jpeg())

        def attempt(_: int) -> Tokens | str:
            try:
                return client.encode(jpeg())
            except ChannelTokError as error:
                return error.code

        for fault in faults(service):
            processes, number, what = faults(service)[fault]
            before = restarts(service, what)
            pending = pool.map(attempt, range(64))
            for process in processes:
                process.send_signal(number)
            answers = list(pending)
            assert {answer for answer in answers if isinstance(answer, str)} <= {
                "ENGINE_UNAVAILABLE",
                "OVERLOADED",
            }, fault
            assert all(answer == expected for answer in answers if isinstance(answer, Tokens)), (
                fault
            )
            eventually(lambda what=what, before=before: restarts(service, what) > before, 30, fault)
            eventually(
                lambda: all(answer == expected for answer in pool.map(attempt, range(8))), 30, fault
            )
            eventually(lambda: httpx.get(f"{service.rest}/readyz").status_code == 200, 30, fault)
            assert len(stubs(service)) == 2 * len(stubs(service, "demo_encode")) == 4


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyEncoder]:
    """With one engine process for each model."""
    with running_faulty_encoder(
        tmp_path, probe_seconds="0.3", engine_instances="1", engine_timeout_seconds="1"
    ) as faulty:
        yield faulty


@pytest.mark.parametrize("fault", ["shape", "ids", "zeros"])
def test_engine_with_wrong_results_is_replaced(faulty: FaultyEncoder, fault: str) -> None:
    """`zeros` is well-formed, as from a graph that computes NaN: only the probe notices."""
    with Client(faulty.service.grpc, timeout=2, retries=False) as client:
        expected = client.encode(jpeg())
        time.sleep(1)  # for a probe to have learnt the right answer
        faulty.fault.write_text(fault)
        if fault in ("shape", "ids"):
            with pytest.raises(Unavailable):
                client.encode(jpeg())
        eventually(lambda: restarts(faulty.service, "demo_encode") >= 1, 30, "the restart")
        eventually(lambda: tokens_or_none(client) == expected, 30, "the right answer")


def test_hanging_engine_is_replaced_while_another_restarts(faulty: FaultyEncoder) -> None:
    """Triton reloads the decoder after its calls end. These wait for the hanging encoder."""
    with (
        Client(faulty.service.grpc, timeout=2, retries=False) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        expected = client.encode(jpeg())
        image = client.decode(expected)
        faulty.fault.write_text("hangs")
        calls = [pool.submit(client.encode, jpeg())]
        time.sleep(0.2)
        calls += [pool.submit(client.decode, expected)]
        time.sleep(0.2)
        (decoder,) = stubs(faulty.service, "demo_decode")
        decoder.kill()
        eventually(
            lambda: (
                restarts(faulty.service, "demo_encode")
                >= 1
                <= restarts(faulty.service, "demo_decode_k256")
            ),
            40,
            "both restarts",
        )
        eventually(lambda: tokens_or_none(client) == expected, 30, "the right answer")
        eventually(
            lambda: httpx.get(f"{faulty.service.rest}/readyz").status_code == 200, 30, "readiness"
        )
        eventually(lambda: image_or_none(client, expected) == image, 30, "the right image")
        assert all(isinstance(call.exception(), ChannelTokError) for call in calls)


def test_one_hanging_process_of_two_is_replaced(tmp_path: Path) -> None:
    """The other process answers all other callers and every probe.

    One caller notices, through one of two workers: later requests were answered before its own.
    """
    settings = {"engine_instances": "2", "probe_seconds": "60", "workers": "2"}
    with (
        running_faulty_encoder(tmp_path, **settings) as faulty,
        Client(faulty.service.grpc, timeout=6.5, retries=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        expected = client.encode(jpeg())
        faulty.fault.write_text("one hangs")
        overtaken = pool.submit(client.encode, jpeg())
        eventually(lambda: not faulty.fault.exists(), 5, "the fault")
        while not overtaken.done():
            assert client.encode(jpeg()) == expected
            time.sleep(0.1)
        assert isinstance(overtaken.exception(), DeadlineExceeded)
        eventually(lambda: restarts(faulty.service, "demo_encode") == 1, 20, "the restart")
        eventually(lambda: tokens_or_none(client) == expected, 30, "the right answer")
        eventually(lambda: len(stubs(faulty.service, "demo_encode")) == 2, 30, "two new processes")


@contextmanager
def deaf(process: psutil.Process) -> Iterator[None]:
    """Stop all threads but the first until the process is killed. It looks asleep, not stopped."""
    threads = [
        int(task) for task in os.listdir(f"/proc/{process.pid}/task") if int(task) != process.pid
    ]
    for request, thread in itertools.product((PTRACE_SEIZE, PTRACE_INTERRUPT), threads):
        assert (
            ctypes.CDLL(None).ptrace(ctypes.c_long(request), ctypes.c_long(thread), None, None) == 0
        )

    def see_them_end() -> None:
        for thread in threads:  # who traces them must, or they are never gone
            while not os.WIFSIGNALED(os.waitpid(thread, WALL)[1]):
                pass

    threading.Thread(target=see_them_end, daemon=True).start()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_unresponsive_triton_is_replaced() -> None:
    with (
        running(engine_instances="1", probe_seconds="0.5", engine_timeout_seconds="3") as service,
        Client(service.grpc, timeout=5, retries=False) as client,
    ):
        expected = client.encode(jpeg())
        with deaf(triton(service)):
            eventually(lambda: restarts(service, "triton") >= 1, 40, "the restart")
        eventually(lambda: tokens_or_none(client) == expected, 20, "the right answer")
        eventually(lambda: httpx.get(f"{service.rest}/readyz").status_code == 200, 30, "readiness")
        assert restarts(service, "triton") == 1


def test_readiness_notices_a_model_unloaded_in_an_external_triton() -> None:
    """Another service owns the Triton. The owner is stopped, so it does not reload the model."""
    with running(probe_seconds="0.5") as owner:
        address = owner.triton_address()
        with (
            running(triton_url=address, probe_seconds="0.5") as guest,
            tritonclient.grpc.InferenceServerClient(address) as engine,
            standing_still(owner),
        ):
            engine.unload_model("demo_encode")
            eventually(
                lambda: sample(guest, "channeltok_engine_ready", model="demo_encode") == 0,
                20,
                "what is known of the encoder",
            )
            assert httpx.get(f"{guest.rest}/readyz").status_code == 503
            engine.load_model("demo_encode")
            eventually(
                lambda: sample(guest, "channeltok_engine_ready", model="demo_encode") == 1,
                20,
                "the encoder's return",
            )
            eventually(
                lambda: httpx.get(f"{guest.rest}/readyz").status_code == 200, 20, "readiness"
            )


def test_child_processes_die_with_a_killed_service() -> None:
    with running() as service:
        children = service.children()
        assert any("stub" in child.name() for child in children)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
        eventually(
            lambda: (
                not any(
                    child.is_running() and child.status() != psutil.STATUS_ZOMBIE
                    for child in children
                )
            ),
            30,
            "the end of children",
        )
