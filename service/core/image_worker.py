"""The processes that decode images: `python -m service.core.image_worker`, started by the gateway.

A fork server imports `imaging` once and forks a worker whenever the gateway asks for one; a fork
takes milliseconds and shares the memory of the imports. The gateway cannot fork its own: gRPC has
threads. Nothing else of the service is imported here.

Messages between the gateway and the fork server are JSON, one per packet:

    {"start": id, "lane": name, "nice": n, "cpu_seconds": s}   with the worker's socket and file
    {"kill": id}                    kill it; nothing happens if it has ended
    {"ready": true}                 the imports are done
    {"ended": id, "status": code}   0 or more: exit code; less: -signal

A job and its answer are passed through a file in memory that a worker shares with the gateway, and
a few bytes over the worker's socket say how long they are: megabytes over a socket would wake both
ends dozens of times. The file holds a pickle of (ImageFile, size, fit), and before it the large
bytes that the pickle only names by (offset, length); then the payload of the answer. That is never
unpickled: an image may have taken over its decoder.
"""

import contextlib
import ctypes
import gc
import io
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from enum import IntEnum
from json import dumps, loads
from pathlib import Path
from typing import NoReturn

import imaging

JOB = struct.Struct("!II")  # length of the bytes before the pickle, and of the pickle
REPLY = struct.Struct("!BI")  # Reply, length of the payload
MAX_TEXT_BYTES = 2**16
AUTOGROUP_TRIES = 20
MAX_MESSAGE_BYTES = 256
# Beyond what ImageFile.memory says: the job itself, what malloc keeps, the caches of libraries.
SPARE_BYTES = 64 * 2**20
SPARE_SHARE = 0.25
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_OOM_SCORE = "500"  # of 1000: the kernel kills a worker before it kills the gateway or an engine


class Reply(IntEnum):
    """Kinds of reply, and what their payload is."""

    PIXELS = 0  # uint8 [size, size, 3]
    BAD_IMAGE = 1  # why, for the caller
    OUT_OF_MEMORY = 2  # empty
    BUG = 3  # a traceback, for our log


def main() -> None:
    """Run the fork server until the gateway ends; its socket is the descriptor in the argument."""
    parent = os.getppid()
    _die_with_parent(parent)
    _prctl(_PR_SET_NAME, b"image-forks")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the gateway drains first, and then kills us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # callers' images stay out of core dumps
    # The gateway ends, at any time: so do we.
    work = None
    with socket.socket(fileno=int(sys.argv[1])) as control, contextlib.suppress(ConnectionError):
        control.send(dumps({"ready": True}).encode())
        work = _serve_forks(control)
    if work is not None:
        work()


def _serve_forks(control: socket.socket) -> Callable[[], NoReturn] | None:
    """Fork and kill as asked. Returns None once the gateway is gone, and in a new worker its work.

    The work begins outside of this frame, so that a worker holds no descriptor of the fork server.
    """
    ids: dict[int, int] = {}  # pid -> id of every worker that was not yet waited for
    with _sigchld() as woken:
        gc.collect()
        gc.freeze()  # the collector of a worker would copy every page it looks at
        while True:
            ready, _, _ = select.select([control, woken], [], [])
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                for pid, status in _ended():
                    message = {"ended": ids.pop(pid), "status": status}
                    control.send(dumps(message).encode())
            if control not in ready:
                continue
            data, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
            if not data:
                return None
            message = loads(data)
            if "kill" in message:
                for pid, id in ids.items():
                    if id == message["kill"]:
                        os.kill(pid, signal.SIGKILL)
                continue
            server, file = os.getpid(), descriptors[1]
            with socket.socket(fileno=descriptors[0]) as connection:
                try:
                    pid = os.fork()
                except OSError:  # no process or memory left
                    message = {"ended": message["start"], "status": -signal.SIGKILL}
                    control.send(dumps(message).encode())
                    os.close(file)
                    continue
                if not pid:
                    own = socket.socket(fileno=connection.detach())
                    lane = (message["lane"], message["nice"], message["cpu_seconds"])
                    return lambda: _work(own, file, server, *lane)
                ids[pid] = message["start"]
                os.close(file)


@contextlib.contextmanager
def _sigchld() -> Iterator[socket.socket]:
    """A socket that becomes readable when a child ends."""
    woken, waker = socket.socketpair()
    with woken, waker:
        woken.setblocking(False)
        waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker.fileno())
        try:
            yield woken
        finally:  # before the socket is closed: all workers end when the gateway does
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)


def _ended() -> list[tuple[int, int]]:
    """(pid, exit code or -signal) of each worker that has ended since the last call."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (waited := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((waited[0], os.waitstatus_to_exitcode(waited[1])))
    return ended


def _work(
    connection: socket.socket, file: int, server: int, lane: str, nice: int, cpu_seconds: int
) -> NoReturn:
    """Decode one image after the other until the gateway closes the connection.

    Beyond the limit of processor time SIGXCPU ends the worker.
    """
    _die_with_parent(server)
    _prctl(_PR_SET_NAME, f"image-{lane}".encode())  # at most 15 bytes
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    if nice:
        _be_nice(nice)
    base = _address_space()
    with contextlib.suppress(ConnectionError):
        while head := connection.recv(JOB.size):
            _set_limit(resource.RLIMIT_CPU, _cpu_seconds() + cpu_seconds)
            large, small = JOB.unpack(head)
            reply, payload = _decode(file, large, small, base)
            _set_limit(resource.RLIMIT_AS, None)
            os.pwrite(file, payload, 0)
            connection.send(REPLY.pack(reply, len(payload)))
            del payload  # before the wait for the next job
            if reply is Reply.OUT_OF_MEMORY:
                break  # what it still holds is unknown
    os._exit(0)


def _decode(file: int, large: int, small: int, base: int) -> tuple[Reply, bytes]:
    try:
        image, size, fit = _JobReader(os.pread(file, small, large), file).load()
        space = (1 + SPARE_SHARE) * (large + image.memory(size, fit))
        _set_limit(resource.RLIMIT_AS, base + int(space) + SPARE_BYTES)
        return Reply.PIXELS, image.pixels(size, fit).tobytes()
    except imaging.BadImage as error:
        return Reply.BAD_IMAGE, str(error).encode()[:MAX_TEXT_BYTES]
    except MemoryError:
        return Reply.OUT_OF_MEMORY, b""
    except Exception:
        return Reply.BUG, traceback.format_exc().encode()[-MAX_TEXT_BYTES:]


def _set_limit(kind: int, value: int | None) -> None:
    """Set a soft limit, within the hard one that the service inherited; None for none."""
    _, hard = resource.getrlimit(kind)
    if value is None or (hard != resource.RLIM_INFINITY and value > hard):
        value = hard
    resource.setrlimit(kind, (value, hard))


def _cpu_seconds() -> int:
    """Seconds of processor time that this process has used, rounded up."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int(usage.ru_utime + usage.ru_stime) + 1


def _address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class _JobReader(pickle.Unpickler):
    def __init__(self, data: bytes, file: int) -> None:
        super().__init__(io.BytesIO(data))
        self._file = file

    def persistent_load(self, place: tuple[int, int]) -> bytes:
        offset, length = place
        return os.pread(self._file, length, offset)


def _be_nice(nice: int) -> None:
    """Yield to all other processes, not only to those of this session: outside of containers, Linux
    shares processors between sessions first (autogroup), and Triton has its own."""
    os.nice(nice)
    os.setsid()
    for _ in range(AUTOGROUP_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except BlockingIOError:  # it takes one change in 0.1 s, on the whole machine
            time.sleep(0.1)
        except OSError:
            return  # a kernel or container without it
        else:
            return


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


if __name__ == "__main__":
    main()
