"""Start the service as a subprocess, as a user does, and wait until it is ready."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.1
ADDRESS = r"(?:[\w.-]+|\[[\w:.]+\])"  # an IPv6 address has brackets
READY = re.compile(rf"ready in ([\d.]+) s +REST (https?://{ADDRESS}:(\d+)).* gRPC ({ADDRESS}:\d+)")


@dataclass
class Service:
    """A running `python -m service`. rest: base URL. grpc: HOST:PORT. log, output: lines of stderr
    and stdout so far."""

    process: subprocess.Popen[bytes]
    rest: str = ""
    grpc: str = ""
    log: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    readers: "list[_Reader]" = field(default_factory=list)

    def stop_reading(self, *, close: bool) -> None:
        """Read none of its output any longer. close: close our ends of the pipes too."""
        for reader in self.readers:
            reader.stop(close=close)

    def children(self, name: str = "") -> list[psutil.Process]:
        """tritonserver and its stubs, and the processes that decode images ("image-..."); with
        `name`, those whose process name contains it."""
        children = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it may end meanwhile
                if name in child.name():
                    children.append(child)
        return children

    def engines(self) -> set[int]:
        """Process ids of tritonserver and its stubs, which stay, whatever callers do."""
        return {child.pid for child in self.children()} - {
            child.pid for child in self.children("image-")
        }

    def triton_folder(self) -> Path:
        """The embedded Triton's folder. Its shared memory lies beside it, as FOLDER-*."""
        (triton,) = self.children("tritonserver")
        return Path(triton.cmdline()[0]).parent

    def triton_address(self, of: str = "grpc") -> str:
        """unix:PATH of the embedded Triton's `grpc` or `metrics`."""
        (socket,) = self.triton_folder().glob(f"{of}*")
        return f"unix:{socket}"

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of an event, such as `stopped`, as dictionaries."""
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in self.log[:] if f'"event": "{name}"' in line
        ]
        return lines

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


class _Reader(threading.Thread):
    """Passes on the lines of a pipe, until it ends or `stop` is called. Closes it, and calls
    `at_end`, then."""

    def __init__(
        self,
        pipe: IO[bytes],
        take: Callable[[str], None],
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(daemon=True)
        self._pipe, self._take, self._at_end = pipe, take, at_end
        self._stopped, self._stopper = os.pipe()

    def run(self) -> None:
        rest, source = b"", self._pipe.fileno()
        while self._stopped not in select.select([source, self._stopped], [], [])[0]:
            data = os.read(source, 2**16)
            *lines, rest = (rest + data).split(b"\n")
            if not data and rest:
                lines.append(rest)
            for line in lines:
                self._take(line.decode(errors="replace") + "\n")
            if not data:
                break
        self._at_end()

    def stop(self, *, close: bool) -> None:
        os.write(self._stopper, b".")
        self.join(10)
        if close:
            self._pipe.close()

    def finish(self) -> None:
        """Once the service has ended: wait for the last lines, and close all."""
        self.join(10)
        if not self._pipe.closed:
            self._pipe.close()
        for descriptor in (self._stopped, self._stopper):
            os.close(descriptor)


def python_path(checkout: str) -> dict[str, str]:
    """The environment in which Python imports this project's packages from a folder."""
    return {"PYTHONPATH": f"{checkout}/client:{checkout}"}


@contextmanager
def running(
    program: Sequence[str] = ("-m", "service"),
    under: Sequence[str] = (),
    checkout: str = str(ROOT),
    **settings: str,
) -> Iterator[Service]:
    """Start a service on free ports with CHANNELTOK_<NAME> settings; stopped at the end of `with`.

    program: arguments of Python, for a module that patches the service before starting it. under:
    a command that execs it, such as `strace -D`. checkout: folder of the code and models to run.
    AssertionError with the service's output if it does not become ready.
    """
    environment = {
        f"CHANNELTOK_{name.upper()}": value
        for name, value in {"rest_port": "0", "grpc_port": "0", **settings}.items()
    }
    process = subprocess.Popen(
        [*under, sys.executable, *program],
        cwd=checkout,
        env={**os.environ, **python_path(checkout), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    service = Service(process)
    ready = threading.Event()

    def take_output(line: str) -> None:
        service.output.append(line)
        if match := READY.search(line):
            service.rest, service.grpc = match[2], match[4]
            ready.set()

    service.readers += [
        _Reader(process.stdout, take_output, ready.set),
        _Reader(process.stderr, service.log.append),
    ]
    for reader in service.readers:
        reader.start()
    try:
        ready.wait(120)
        if not service.rest:
            process.kill()
            output = "".join(service.output + service.log)
            raise AssertionError(f"the service did not become ready: {output}")
        yield service
    finally:
        try:
            if process.poll() is None:
                service.stop()
        finally:
            process.kill()  # no error where it has ended
        for reader in service.readers:
            reader.finish()


def eventually(
    condition: Callable[[], bool], seconds: float = 30.0, event: str = "condition"
) -> None:
    """Poll until condition() is true. AssertionError after about `seconds`.

    Polls are counted instead of seconds, so that a stalled machine does not use up the time.
    """
    for _ in range(round(seconds / POLL_SECONDS)):
        if condition():
            return
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{event}: not within {seconds} s")
