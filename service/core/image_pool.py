"""Worker processes that decode images. One whose caller leaves or whose deadline passes is killed.

A lane has workers of its own, so that images that take seconds never make the others wait. What a
worker is and how to speak to it: service/core/image_worker.py.
"""

import asyncio
import io
import json
import os
import pickle
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

import imaging
from service.core.image_worker import JOB, MAX_MESSAGE_BYTES, MAX_TEXT_BYTES, REPLY, Reply
from service.errors import BadImage, CannotStart, EngineUnavailable, Stopping
from service.observability import metrics

log = structlog.get_logger()
RETRY_SECONDS = 1.0
KEPT_BYTES = 2**22  # of a worker's file: new pages cost more than the copy
LARGE_BYTES = 2**12
ENVIRONMENT = {
    # NumPy's threads would not survive a fork, and nothing here needs them.
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would return the buffers of each image, and page faults take a quarter of a decoding.
    # A worker keeps 32 MiB at most: larger buffers go back, and SPARE_BYTES allows for the rest.
    "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}
MIN_LIFE_SECONDS = 1.0  # a worker or fork server that ends unused and sooner is not replaced before


@dataclass(frozen=True)
class Lane:
    """A kind of workers. nice: added to the gateway's. cpu_seconds: limit of one image."""

    name: str
    nice: int
    cpu_seconds: int


# Beside busy engines, a process of nice 10 gets a tenth of what one of nice 0 gets.
LIGHT = Lane("light", nice=0, cpu_seconds=2)
HEAVY = Lane("heavy", nice=10, cpu_seconds=10)
LANES = (LIGHT, HEAVY)


@dataclass(eq=False)
class _Worker:
    """A worker process. ended: its exit code, or -signal; None when its fork server ended."""

    id: int
    lane: Lane
    connection: socket.socket
    file: int
    started: float
    ended: asyncio.Future[int | None]
    used: bool = False
    reason: str = ""  # why we let it end

    def close(self) -> None:
        """Close our ends. Only while nobody waits for a reply."""
        if self.file >= 0:
            self.connection.close()
            os.close(self.file)
            self.file = -1


class WorkerBug(RuntimeError):
    """Our own code failed in a worker; the message is its traceback."""


@dataclass
class ImagePool:
    """`size` workers in each lane, and the fork server that starts them."""

    size: int
    _idle: dict[Lane, asyncio.LifoQueue[_Worker]] = field(init=False)

    def __post_init__(self) -> None:
        self._idle = {lane: asyncio.LifoQueue() for lane in LANES}
        self._workers: dict[int, _Worker] = {}
        self._last_id = 0
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[None] | None = None
        self._restart: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start the fork server and all workers; `ready` waits for them."""
        loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._ready = self._ready or loop.create_future()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"{__package__}.image_worker",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT},
            )
        self._control = ours
        loop.add_reader(ours, self._read_messages, ours)
        for lane in LANES:
            for _ in range(self.size):
                self._start_worker(lane, ours)

    async def ready(self) -> None:
        """Wait until the fork server has started. Raises CannotStart."""
        assert self._ready is not None
        await self._ready

    async def stop(self) -> None:
        """Kill the fork server, and with it all workers."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._control is not None:
            self._lose_all(self._control)
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    async def pixels(
        self, lane: Lane, image: imaging.ImageFile, size: int, fit: imaging.Fit
    ) -> NDArray[np.uint8]:
        """Decode to uint8 [size, size, 3] in a worker of the lane.

        A cancelled call kills its worker. Raises BadImage, also when the image made its decoder
        crash or exceed its limits; EngineUnavailable when somebody else killed the worker;
        WorkerBug.
        """
        assert self._ready is not None, "not started"
        with metrics.IMAGE_DECODES_WAITING.labels(lane.name).track_inprogress():
            worker = await self._take(lane)
        worker.used = True
        with (
            metrics.IMAGE_DECODES.labels(lane.name).track_inprogress(),
            metrics.IMAGE_DECODE_SECONDS.labels(lane.name).time(),
        ):
            try:
                kind, payload = await _run(worker, image, size, fit)
            except (ConnectionError, EOFError) as error:
                worker.close()
                raise self._why_it_ended(worker, await worker.ended) from error
            except BaseException as error:
                self._kill(worker, "bug" if isinstance(error, WorkerBug) else "cancelled")
                raise
        if kind == Reply.OUT_OF_MEMORY:
            self._kill(worker, "memory")
            raise BadImage("the image cannot be decoded: it takes more memory than its size needs")
        if kind == Reply.BUG:
            self._kill(worker, "bug")
            raise WorkerBug(payload.decode(errors="replace"))
        self._idle[lane].put_nowait(worker)
        if kind == Reply.BAD_IMAGE:
            raise BadImage(payload.decode(errors="replace"))
        return np.frombuffer(payload, np.uint8).reshape(size, size, 3)

    async def _take(self, lane: Lane) -> _Worker:
        while True:
            worker = await self._idle[lane].get()
            if not worker.ended.done():
                return worker
            worker.close()

    def _start_worker(self, lane: Lane, control: socket.socket | None) -> None:
        if control is None or control is not self._control:
            return  # its fork server has ended meanwhile
        self._last_id += 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        file = os.memfd_create("channeltok-image")
        ended = asyncio.get_running_loop().create_future()
        worker = _Worker(self._last_id, lane, ours, file, time.monotonic(), ended)
        message = {"start": worker.id, "lane": lane.name, "nice": lane.nice}
        message["cpu_seconds"] = lane.cpu_seconds
        with theirs:
            socket.send_fds(control, [json.dumps(message).encode()], [theirs.fileno(), file])
        self._workers[worker.id] = worker
        self._idle[lane].put_nowait(worker)

    def _kill(self, worker: _Worker, reason: str) -> None:
        """Kill a worker; `_worker_ended` replaces it once its memory is free again."""
        worker.reason = reason
        worker.close()
        if not worker.ended.done() and self._control is not None:
            self._control.send(json.dumps({"kill": worker.id}).encode())

    def _read_messages(self, control: socket.socket) -> None:
        """Called by the event loop."""
        try:
            while data := control.recv(MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT):
                message: dict[str, Any] = json.loads(data)
                if "ended" in message:
                    self._worker_ended(self._workers.pop(message["ended"]), message["status"])
                elif self._ready is not None and not self._ready.done():
                    self._ready.set_result(None)
            self._server_ended(control)
        except BlockingIOError:
            return
        except ConnectionError:
            self._server_ended(control)

    def _worker_ended(self, worker: _Worker, status: int) -> None:
        worker.ended.set_result(status)
        if not worker.reason:
            worker.reason = _reason(status)
            log.warning(
                "image_worker_ended", lane=worker.lane.name, reason=worker.reason, status=status
            )
        metrics.IMAGE_WORKER_RESTARTS.labels(worker.reason).inc()
        age = time.monotonic() - worker.started
        delay = 0.0 if worker.used else max(0.0, MIN_LIFE_SECONDS - age)
        if delay:
            asyncio.get_running_loop().call_later(
                delay, self._start_worker, worker.lane, self._control
            )
        else:
            self._start_worker(worker.lane, self._control)

    def _server_ended(self, control: socket.socket) -> None:
        """All workers end with their fork server. Start another one."""
        self._lose_all(control)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(
                CannotStart("the process that decodes images ended at once; its messages are above")
            )
        elif not self._stopping:
            log.error("image_workers_ended", why="their fork server ended")
            metrics.IMAGE_WORKER_RESTARTS.labels("killed").inc(len(LANES) * self.size)
            self._restart = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        await asyncio.sleep(max(0.0, MIN_LIFE_SECONDS - (time.monotonic() - self._started)))
        assert self._process is not None
        await self._process.wait()
        await self.start()

    def _lose_all(self, control: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(control)
        control.close()
        self._control = None
        for worker in self._workers.values():
            worker.ended.set_result(None)
        self._workers.clear()
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait().close()

    def _why_it_ended(self, worker: _Worker, status: int | None) -> Exception:
        if self._stopping:
            return Stopping("the service is stopping: try again, another one may answer", 1.0)
        reason = "killed" if status is None else _reason(status)
        if reason == "bug":
            return WorkerBug(f"a worker ended with exit code {status}; its traceback is above")
        if reason == "cpu":
            seconds = worker.lane.cpu_seconds
            return BadImage(
                f"the image cannot be decoded: that takes more than {seconds} s of a processor"
            )
        if reason == "crash":
            return BadImage("the image cannot be decoded: its decoder crashed; the file is damaged")
        return EngineUnavailable("the image was not decoded: try again", RETRY_SECONDS)


def _reason(status: int) -> str:
    """Why a worker ended that we did not kill. SIGKILL comes from the kernel or an operator.

    Python itself ends with an exit code above 0, decoders end by a signal.
    """
    if status > 0:
        return "bug"
    reasons = {0: "memory", -signal.SIGXCPU: "cpu", -signal.SIGKILL: "killed"}
    return reasons.get(status, "crash")


class _JobWriter(pickle.Pickler):
    """Writes large bytes straight to a worker's file: pickling would copy them twice more."""

    def __init__(self, pickled: io.BytesIO, file: int) -> None:
        super().__init__(pickled, pickle.HIGHEST_PROTOCOL)
        self._file = file
        self.offset = 0

    def persistent_id(self, value: object) -> tuple[int, int] | None:
        if type(value) is not bytes or len(value) < LARGE_BYTES:
            return None
        place = (self.offset, len(value))
        self.write(value)
        return place

    def write(self, data: bytes) -> None:
        """Append to the worker's file."""
        with memoryview(data) as left:
            written = 0
            while written < len(data):  # one write is at most 2 GiB
                written += os.pwrite(self._file, left[written:], self.offset + written)
        self.offset += len(data)


async def _run(
    worker: _Worker, image: imaging.ImageFile, size: int, fit: imaging.Fit
) -> tuple[int, bytes]:
    """Kind and payload of the reply. Raises ConnectionError or EOFError if the worker ends."""
    pickled = io.BytesIO()
    writer = _JobWriter(pickled, worker.file)
    writer.dump((image, size, fit))
    large = writer.offset
    writer.write(pickled.getvalue())
    worker.connection.send(JOB.pack(large, pickled.tell()))
    head = await asyncio.get_running_loop().sock_recv(worker.connection, REPLY.size)
    if not head:
        raise EOFError
    kind, length = REPLY.unpack(head)
    allowed = length == 3 * size * size if kind == Reply.PIXELS else length <= MAX_TEXT_BYTES
    payload = os.pread(worker.file, length, 0) if allowed else b""
    if kind not in set(Reply) or not allowed or len(payload) != length:
        raise WorkerBug(f"a worker sent a reply of kind {kind} and {length} bytes")
    if large > KEPT_BYTES:
        os.truncate(worker.file, KEPT_BYTES)
    return kind, payload
