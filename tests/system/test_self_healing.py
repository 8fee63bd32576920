"""Engine processes that die, hang or answer rubbish, and what the service does about it."""

import ctypes
import itertools
import os
import shutil
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

from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, eventually, running, standing_still

PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000  # of Linux' ptrace.h and wait.h


def stubs(service: Service, model: str = "") -> list[psutil.Process]:
    return [child for child in service.children("stub") if f"/{model}" in " ".join(child.cmdline())]


def triton(service: Service) -> psutil.Process:
    (found,) = service.children("tritonserver")
    return found


def restarts(service: Service, what: str) -> float:
    return sample(service, "channeltok_engine_restarts_total", component=what)


def tokens(client: Client) -> Tokens | None:
    """None where the service says that it has none."""
    try:
        return client.encode(jpeg())
    except ChannelTokError:
        return None


def faults(service: Service) -> dict[str, tuple[list[psutil.Process], int, str]]:
    """Name -> processes, the signal they get, and what must have been restarted."""
    return {
        "one stub killed": (stubs(service, "demo_encode")[:1], signal.SIGKILL, "demo_encode"),
        "all stubs killed": (stubs(service, "demo_encode"), signal.SIGKILL, "demo_encode"),
        "a stub stopped": (stubs(service, "demo_encode")[:1], signal.SIGSTOP, "demo_encode"),
        "Triton killed": ([triton(service)], signal.SIGKILL, "triton"),
        "Triton stopped": ([triton(service)], signal.SIGSTOP, "triton"),
    }


@pytest.mark.slow  # what can be killed is killed in the chaos attacks too; stopping a process is not
def test_whatever_stops_the_engine_it_serves_again_and_no_answer_is_wrong() -> None:
    """In the middle of work: each call has an answer, right or UNAVAILABLE, and soon all of them are right."""
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


SICK = """

class TritonPythonModel(TritonPythonModel):
    \"\"\"EngineHealth rubbish, once FLAG says which, until the process is a new one.\"\"\"

    def initialize(self, args):
        super().initialize(args)
        self.fault = ""
        Path("FLAG").unlink(missing_ok=True)

    def _run(self, requests):
        self.fault = self.fault or (Path("FLAG").read_text() if Path("FLAG").exists() else "")
        if self.fault == "one hangs":
            Path("FLAG").unlink(missing_ok=True)
        if self.fault in ("hangs", "one hangs"):
            time.sleep(3600)
        responses = super()._run(requests)
        if not self.fault:
            return responses
        rubbish = {"shape": np.zeros((1, 7), np.int32), "ids": np.full((1, 256), 70_000, np.int32), "zeros": np.zeros((1, 256), np.int32)}
        given = [pb_utils.get_input_tensor_by_name(request, "picture").as_numpy() for request in requests]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("tokens", rubbish[self.fault].repeat(len(one), axis=0)),
                    pb_utils.Tensor("execution", np.ones((len(one), 2), np.int64)),
                ]
            )
            for one in given
        ]
"""


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """Once it is there the encoder of `sick` is ill, of what it says."""
    return tmp_path / "fault"


@contextmanager
def running_sick(tmp_path: Path, flag: Path, **settings: str) -> Iterator[Service]:
    repository = tmp_path / "models"
    shutil.copytree(
        ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__")
    )
    with (repository / "demo_encode/1/model.py").open("a") as file:
        file.write(SICK.replace("FLAG", str(flag)))
    with running(model_repository=str(repository), **settings) as service:
        yield service


@pytest.fixture
def sick(tmp_path: Path, flag: Path) -> Iterator[Service]:
    """With one engine process for each model."""
    with running_sick(
        tmp_path, flag, probe_seconds="0.3", engine_instances="1", engine_timeout_seconds="1"
    ) as service:
        yield service


@pytest.mark.parametrize("fault", ["shape", "ids", "zeros"])
def test_an_engine_that_answers_rubbish_is_replaced(sick: Service, flag: Path, fault: str) -> None:
    """zeros is what a graph makes of NaN: well-formed, and found by the probe alone."""
    with Client(sick.grpc, timeout=2) as client:
        expected = client.encode(jpeg())
        time.sleep(1)  # for a probe to have learnt the right answer
        flag.write_text(fault)
        if fault in ("shape", "ids"):
            with pytest.raises(Unavailable):
                client.encode(jpeg())
        eventually(lambda: restarts(sick, "demo_encode") >= 1, 30, "the restart")
        eventually(lambda: tokens(client) == expected, 30, "the right answer")


def test_an_engine_that_hangs_is_replaced_also_while_another_is(sick: Service, flag: Path) -> None:
    """Triton does not load the decoder anew before the decoder's calls are done, which wait for the core that the encoder has."""
    with Client(sick.grpc, timeout=2) as client, ThreadPoolExecutor(2) as pool:
        expected = client.encode(jpeg())
        image = client.decode(expected)
        flag.write_text("hangs")
        calls = [pool.submit(client.encode, jpeg())]
        time.sleep(0.2)
        calls += [pool.submit(client.decode, expected)]
        time.sleep(0.2)
        (decoder,) = stubs(sick, "demo_decode")
        decoder.kill()
        eventually(
            lambda: restarts(sick, "demo_encode") >= 1 <= restarts(sick, "demo_decode_k256"),
            40,
            "both restarts",
        )
        eventually(lambda: tokens(client) == expected, 30, "the right answer")
        eventually(lambda: httpx.get(f"{sick.rest}/readyz").status_code == 200, 30, "readiness")
        assert client.decode(expected) == image
        assert all(isinstance(call.exception(), ChannelTokError) for call in calls)


def test_one_of_two_engine_processes_that_hangs_is_replaced(tmp_path: Path, flag: Path) -> None:
    """The other one answers all who come, and every probe. One caller alone sees it: younger ones were answered, and he was not; and of two
    workers only his."""
    settings = {"engine_instances": "2", "probe_seconds": "60", "workers": "2"}
    with (
        running_sick(tmp_path, flag, **settings) as service,
        Client(service.grpc, timeout=6.5) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        expected = client.encode(jpeg())
        flag.write_text("one hangs")
        overtaken = pool.submit(client.encode, jpeg())
        eventually(lambda: not flag.exists(), 5, "the fault")
        while not overtaken.done():
            assert client.encode(jpeg()) == expected
            time.sleep(0.1)
        assert isinstance(overtaken.exception(), DeadlineExceeded)
        eventually(lambda: restarts(service, "demo_encode") == 1, 20, "the restart")
        eventually(lambda: tokens(client) == expected, 30, "the right answer")
        eventually(lambda: len(stubs(service, "demo_encode")) == 2, 30, "two new processes")


@contextmanager
def deaf(process: psutil.Process) -> Iterator[None]:
    """All of its threads but the first stand still, until it is killed: to everybody else it is asleep, with nothing to do."""
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


def test_a_triton_that_answers_nobody_is_replaced() -> None:
    with (
        running(engine_instances="1", probe_seconds="0.5", engine_timeout_seconds="3") as service,
        Client(service.grpc, timeout=5) as client,
    ):
        expected = client.encode(jpeg())
        with deaf(triton(service)):
            eventually(lambda: restarts(service, "triton") >= 1, 40, "the restart")
        eventually(lambda: tokens(client) == expected, 20, "the right answer")
        eventually(lambda: httpx.get(f"{service.rest}/readyz").status_code == 200, 30, "readiness")
        assert restarts(service, "triton") == 1


def test_a_model_that_triton_has_no_more_is_told() -> None:
    """Of a Triton that is somebody else's; whose it is comes to a stop before it loads the model again."""
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
                "what is told of the encoder",
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


def test_children_die_with_a_killed_parent() -> None:
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
