"""The embedded Triton at odd paths, beside odd folders, and with other users on the host."""

import os
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
from channeltok import ChannelTokError, Client

from loadtest.harness.other_user import as_nobody
from tests.support.engines import restarts, stubs, tokens_or_none, triton
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, eventually, running

STRAYS = [".git", "__pycache__", "a folder with spaces", "lost+found"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's models, beside a file, strange folders, and a model of which half is there."""
    repository = tmp_path_factory.mktemp("modèle dépôt") / "é"
    shutil.copytree(ROOT / "model_repository", repository)
    for stray in STRAYS:
        (repository / stray).mkdir()
    (repository / "a folder with spaces/config.pbtxt").touch()
    (repository / "README.md").touch()
    half = repository / "half_copied"
    half.mkdir()
    config = (repository / "demo_encode/config.pbtxt").read_text()
    (half / "config.pbtxt").write_text(config.replace('"demo_encode"', '"half_copied"'))
    return repository


@pytest.fixture(scope="module")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """From a checkout and with a temporary folder whose paths have spaces and an é."""
    checkout = tmp_path_factory.mktemp("a chéckout")
    for package in ("service", "imaging", "client"):
        shutil.copytree(
            ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    temporary = tmp_path_factory.mktemp("a témporary")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(temporary))
    patch.setenv("LC_ALL", "C")
    with running(
        checkout=str(checkout), model_repository=str(repository), probe_seconds="0.5"
    ) as started:
        patch.undo()
        yield started
    assert not list(temporary.iterdir())


def test_odd_paths_and_stray_folders_stop_no_start(service: Service) -> None:
    with Client(service.grpc) as client:
        assert client.decode(client.encode(jpeg()))
    (others,) = service.events("not_models")
    assert others["names"] == sorted([*STRAYS, "README.md"])
    (broken,) = service.events("cannot_load")
    assert broken["model"] == "half_copied"


def test_stray_folders_stop_no_reload(service: Service, repository: Path) -> None:
    (repository / "another").mkdir()
    (stub, _) = stubs(service, "demo_encode")
    before = restarts(service, "demo_encode")
    stub.kill()
    eventually(lambda: restarts(service, "demo_encode") > before, 30, "the reload")
    with Client(service.grpc) as client:
        eventually(lambda: tokens_or_none(client) is not None, 30, "tokens")
    eventually(lambda: len(service.events("not_models")) == 2, 60, "the new folder's name")
    assert service.events("not_models")[1]["names"] == ["another"]


def test_files_of_triton_are_private(service: Service) -> None:
    """Its folder is in /dev/shm, and so is its memory with callers' images."""
    folder = service.triton_folder()
    regions = list(folder.parent.glob(f"{folder.name}-*"))
    assert len(regions) >= 4
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}
    sockets = [file for file in folder.iterdir() if file.is_socket()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in sockets} == {0o700}
    listening = [
        connection
        for child in service.children()
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert not listening, "a port that any user of the host reaches"


def test_triton_sends_the_counters_of_an_execution_where_they_are_asked_for(
    service: Service,
) -> None:
    picture = tritonclient.grpc.InferInput("picture", (3, 128, 128, 3), "UINT8")
    picture.set_data_from_numpy(np.zeros((3, 128, 128, 3), np.uint8))
    tokens, counters = map(tritonclient.grpc.InferRequestedOutput, ("tokens", "execution"))
    with tritonclient.grpc.InferenceServerClient(service.triton_address()) as engine:
        everything, few, both = (
            engine.infer("demo_encode", [picture], outputs=outputs)
            for outputs in (None, [tokens], [tokens, counters])
        )
    for reply in (everything, both):
        ((nanoseconds, images), *others) = reply.as_numpy("execution").tolist()
        assert nanoseconds > 0
        assert images == 3
        assert others == [[nanoseconds, images]] * 2
    assert few.as_numpy("execution") is None
    for reply in (few, both):
        assert np.array_equal(reply.as_numpy("tokens"), everything.as_numpy("tokens"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_other_users_reach_neither_triton_nor_its_memory(service: Service) -> None:
    folder = service.triton_folder()
    sockets = [service.triton_address(of).removeprefix("unix:") for of in ("grpc", "metrics")]
    regions = list(folder.parent.glob(f"{folder.name}-*"))

    def attempt() -> list[str]:
        done = []
        for path in sockets:
            with suppress(PermissionError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                done.append(f"connected to {path}")
        for path in (*regions, folder):
            for flags in (os.O_RDONLY, os.O_RDWR):
                # Regions of an engine that restarts meanwhile are gone.
                with suppress(PermissionError, IsADirectoryError, FileNotFoundError):
                    os.close(os.open(path, flags))
                    done.append(f"opened {path}")
            with suppress(PermissionError, FileNotFoundError):
                os.rename(path, f"{path}.moved")
                done.append(f"moved {path}")
        return done

    assert regions
    assert as_nobody(attempt) == []
    with Client(service.grpc) as client:
        assert client.encode(jpeg())


def test_installed_stub_is_left_alone(service: Service) -> None:
    """Triton changes the mode of the program that it starts: it has a copy."""
    (stub, *_) = stubs(service)
    assert Path(stub.exe()).parent.is_relative_to(service.triton_folder())


def test_removed_files_are_made_again(service: Service) -> None:
    folder = service.triton_folder()
    before = restarts(service, "triton")
    shutil.rmtree(folder)
    eventually(lambda: restarts(service, "triton") > before, 30, "the restart")
    with Client(service.grpc) as client:
        eventually(lambda: tokens_or_none(client) is not None, 60, "tokens")
    assert service.triton_folder() == folder


def test_killed_guardian_is_replaced_and_leaves_nothing(service: Service) -> None:
    folder = service.triton_folder()
    eventually(lambda: len(stubs(service)) == 4, 60, "the engines")
    old, before = [triton(service), *stubs(service)], restarts(service, "triton")
    regions = set(folder.parent.glob(f"{folder.name}-*"))
    (guardian,) = service.children("triton-guardian")
    guardian.kill()
    eventually(lambda: restarts(service, "triton") > before, 30, "the restart")
    with Client(service.grpc) as client:
        eventually(lambda: tokens_or_none(client) is not None, 60, "tokens")
    eventually(lambda: not any(map(alive, old)), 10, "the end of the old engines")
    assert not regions & set(folder.parent.glob(f"{folder.name}-*"))


def test_killed_gateway_leaves_nothing(service: Service) -> None:
    """Last in this file: it ends the service."""
    eventually(lambda: httpx.get(f"{service.rest}/readyz").status_code == 200, 60, "readiness")
    assert killed_under_load(service, service.process.pid) == []


def test_killed_parent_of_workers_leaves_nothing() -> None:
    with running(workers="2") as service:
        assert killed_under_load(service, service.process.pid) == []


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def killed_under_load(service: Service, pid: int) -> list[str]:
    """Kill a process while calls are in progress. What is left of the service after 30 s."""
    children, folder = service.children(), service.triton_folder()
    assert len([child for child in children if "stub" in child.name()]) == 4

    def left() -> list[str]:
        return [str(child) for child in children if alive(child)] + [
            str(file) for file in folder.parent.glob(f"{folder.name}*")
        ]

    with calls(service):
        os.kill(pid, signal.SIGKILL)
        with suppress(AssertionError):
            eventually(lambda: not left(), 30)
    return left()


@contextmanager
def calls(service: Service) -> Iterator[None]:
    """Eight callers, which have all had an answer when `with` begins."""
    stopping, answered = threading.Event(), threading.Barrier(9)

    def work() -> None:
        with Client(service.grpc, timeout=20) as client:
            client.encode(jpeg())
            answered.wait(60)
            while not stopping.is_set():
                with suppress(ChannelTokError):
                    client.encode(jpeg())

    callers = [threading.Thread(target=work) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        answered.wait(60)
        yield
    finally:
        stopping.set()
        for caller in callers:
            caller.join()
