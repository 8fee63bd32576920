"""Another user of this host, somebody who removes our files, and kill -9 of the gateway."""

import os
import shutil
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from loadtest.chaos.attack import Row, Rows
from loadtest.chaos.clients import OK, Clients, Outcome, count_wrong, expected_answers
from loadtest.chaos.engine_faults import ALLOWED, recovery_seconds
from loadtest.harness.other_user import as_nobody
from loadtest.harness.service_process import Service, eventually, running

FOREIGN_FILES = 200
LEFT_SECONDS = 10.0  # after kill -9 of the gateway, until nothing may be left of it


def local_user(short: bool) -> Rows:
    """The other user's part needs root, to become one."""
    outcomes: list[Outcome] = []
    with running() as service:
        expected = expected_answers(service)
        engines, folder = len(service.children("stub")), service.triton_folder()
        foreign = []
        if os.geteuid() == 0:
            yield from _reach(service)
            foreign = as_nobody(lambda: _create_beside(folder))
            yield Row("local_user_files", "files of the other user with our names", len(foreign))
        try:
            with Clients(service) as clients:
                recoveries = []
                struck = time.monotonic()
                for stub in service.children("stub"):
                    stub.kill()
                recoveries.append(recovery_seconds(service, clients, struck, "stub", engines))
                struck = time.monotonic()
                shutil.rmtree(folder)
                eventually(lambda: not service.children("stub"), 30, "the restart")
                recoveries.append(recovery_seconds(service, clients, struck, "stub", engines))
            outcomes += clients.outcomes
        finally:
            for path in foreign:
                path.unlink(missing_ok=True)  # a service of root's removes them too
    for what, seconds in zip(("all engines killed", "our files removed"), recoveries, strict=True):
        key = f"local_user_{what.replace(' ', '_')}_seconds"
        yield Row(key, f"{what}: recovery beside those files", seconds, 20, unit=" s")
    others = [outcome.code for outcome in outcomes if outcome.code not in ALLOWED]
    label = "answers other than a result or UNAVAILABLE"
    yield Row("local_user_other_answers", label, len(others), 0)
    wrong = count_wrong(outcomes, expected)
    yield Row("local_user_wrong", "wrong images or tokens", wrong, 0)
    yield Row("local_user_calls", "calls", len(outcomes))
    yield from _kill_gateways(1 if short else 3)


def _reach(service: Service) -> Rows:
    """What the other user gets at."""
    sockets = [service.triton_address(of).removeprefix("unix:") for of in ("grpc", "metrics")]
    folder = service.triton_folder()
    regions = list(folder.parent.glob(f"{folder.name}-*"))
    assert regions, "there is no shared memory to read"
    ports = [
        connection.laddr.port
        for child in service.children()
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    def connect() -> int:
        connected = 0
        for path in sockets:
            with suppress(PermissionError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connected += 1
        for port in ports:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                connected += 1
        return connected

    def opened(flags: int) -> int:
        count = 0
        for path in regions:
            with suppress(PermissionError):
                os.close(os.open(path, flags))
                count += 1
        return count

    label = "of Triton's sockets and ports, the other user reaches"
    yield Row("local_user_connected", label, as_nobody(connect), 0)
    for verb, flags in (("reads", os.O_RDONLY), ("writes", os.O_RDWR)):
        count = as_nobody(partial(opened, flags))
        label = f"of {len(regions)} regions of shared memory, the other user {verb}"
        yield Row(f"local_user_{verb}", label, count, 0)


def _create_beside(folder: Path) -> list[Path]:
    """Files whose names begin as those of our shared memory."""
    files = [folder.with_name(f"{folder.name}-{number}") for number in range(FOREIGN_FILES)]
    for file in files:
        file.touch()
    return files


def _kill_gateways(rounds: int) -> Rows:
    """Each round starts its own service."""
    processes, files, slowest, idle_hits = 0, 0, 0.0, 0
    for _ in range(rounds):
        with running() as service:
            children, folder = service.children(), service.triton_folder()
            with Clients(service) as clients:
                eventually(partial(_answered, clients), 30, "the first answer")
                idle_hits += clients.in_flight == 0
                struck = time.monotonic()
                service.process.kill()
                while any(_left(children, folder)) and time.monotonic() < struck + LEFT_SECONDS:
                    time.sleep(0.05)
            slowest = max(slowest, time.monotonic() - struck)
            left = _left(children, folder)
            processes, files = processes + left[0], files + left[1]
    label = f"kill -9 of the gateway under load, {rounds} times: processes left"
    yield Row("local_user_processes_left", label, processes, 0)
    yield Row("local_user_files_left", "files left", files, 0)
    yield Row("local_user_idle_hits", "signals sent while no call was in flight", idle_hits, 0)
    yield Row("local_user_gone_seconds", "longest until all was gone", slowest, unit=" s")


def _answered(clients: Clients) -> bool:
    return any(outcome.code == OK for outcome in clients.outcomes)


def _left(children: list[psutil.Process], folder: Path) -> tuple[int, int]:
    """Processes and files of a service that are still there."""
    processes = 0
    for child in children:
        with suppress(psutil.NoSuchProcess):
            processes += child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    return processes, len(list(folder.parent.glob(f"{folder.name}*")))
