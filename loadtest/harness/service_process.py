"""A service started as a user starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PAUSE = 0.1  # seconds
READY = re.compile(r"ready in ([\d.]+) s +REST (https?://[\d.]+:(\d+)).* gRPC ([\d.]+:\d+)")


@dataclass
class Service:
    """A running `python -m service`. rest: base URL. grpc: HOST:PORT. log: what it wrote to stderr so far."""

    process: subprocess.Popen[str]
    rest: str = ""
    grpc: str = ""
    log: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    def children(self, name: str = "") -> list[psutil.Process]:
        """tritonserver and its stubs, or those of them with `name` in their names."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                if name in child.name():
                    found.append(child)
        return found

    def triton_port(self, of: str = "grpc") -> int:
        """Loopback port of the embedded Triton's gRPC, or of its `metrics`."""
        (triton,) = self.children("tritonserver")
        words: list[str] = triton.cmdline()
        return next(int(word.split("=")[1]) for word in words if word.startswith(f"--{of}-port="))

    def triton_address(self, of: str = "grpc") -> str:
        """HOST:PORT of it."""
        return f"127.0.0.1:{self.triton_port(of)}"

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log for one event, such as `stopped`."""
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in self.log[:] if f'"event": "{name}"' in line
        ]
        return lines

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        """Signal it and wait for its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


@contextmanager
def running(
    program: Sequence[str] = ("-m", "service"), under: Sequence[str] = (), **settings: str
) -> Iterator[Service]:
    """Start a service on free ports with CHANNELTOK_<NAME> settings; ready when entered, gone when left.

    program: arguments of Python, for one that breaks something in the service before it starts it. under: a command that becomes it, such
    as `strace -D`. AssertionError, with what the service wrote, when it does not become ready.
    """
    environment = {
        f"CHANNELTOK_{name.upper()}": value
        for name, value in {"rest_port": "0", "grpc_port": "0", **settings}.items()
    }
    process = subprocess.Popen(
        [*under, sys.executable, *program],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    service = Service(process)
    ready = threading.Event()

    def read_output() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            service.output.append(line)
            if found := READY.search(line):
                service.rest, service.grpc = found[2], found[4]
                ready.set()
        ready.set()

    def read_log() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            service.log.append(line)

    readers = [threading.Thread(target=read, daemon=True) for read in (read_output, read_log)]
    for reader in readers:
        reader.start()
    try:
        ready.wait(120)
        if not service.rest:
            process.kill()
            raise AssertionError(
                f"the service did not become ready: {''.join(service.output + service.log)}"
            )
        yield service
    finally:
        if process.poll() is None:
            service.stop()
        for reader in readers:
            reader.join(10)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def eventually(
    condition: Callable[[], bool], seconds: float = 30.0, what: str = "condition"
) -> None:
    """Wait until condition() is true. AssertionError after `seconds`, of which those do not count in which the machine stood still."""
    for _ in range(round(seconds / PAUSE)):
        if condition():
            return
        time.sleep(PAUSE)
    raise AssertionError(f"{what} did not come about within {seconds} s")
